//! A stretch of network between a server and a load balancer, which a test can cut.

use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

/// How often the threads look whether they are to end.
const LOOK: Duration = Duration::from_millis(50);

/// Longer than any packet.
const PACKET_BYTES: usize = 65_536;

/// What both directions share.
#[derive(Debug)]
struct Wire {
    /// Where the one that has dialled is.
    near: UdpSocket,
    /// Connected to the one that is dialled.
    far: UdpSocket,
    dialler: Mutex<Option<SocketAddr>>,
    is_cut: AtomicBool,
    ends: AtomicBool,
}

/// Carries packets of one that dials to `to` and back, as long as it is not cut.
#[derive(Debug)]
pub(crate) struct Proxy {
    wire: Arc<Wire>,
    threads: Vec<JoinHandle<()>>,
}

impl Proxy {
    pub(crate) fn to(to: SocketAddr) -> Proxy {
        let socket = || {
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            socket.set_read_timeout(Some(LOOK)).unwrap();
            socket
        };
        let (near, far) = (socket(), socket());
        far.connect(to).unwrap();
        let wire = Arc::new(Wire {
            near,
            far,
            dialler: Mutex::new(None),
            is_cut: AtomicBool::new(false),
            ends: AtomicBool::new(false),
        });
        let (there, back) = (Arc::clone(&wire), Arc::clone(&wire));
        let threads = vec![
            std::thread::spawn(move || there.carry(Wire::there)),
            std::thread::spawn(move || back.carry(Wire::back)),
        ];
        Proxy { wire, threads }
    }

    /// The address to dial.
    pub(crate) fn address(&self) -> SocketAddr {
        self.wire.near.local_addr().unwrap()
    }

    /// Nothing gets through, or all does again.
    pub(crate) fn cut(&self, is_cut: bool) {
        self.wire.is_cut.store(is_cut, Ordering::Relaxed);
    }
}

impl Wire {
    fn carry(&self, step: fn(&Wire, &mut [u8])) {
        let mut packet = vec![0; PACKET_BYTES];
        while !self.ends.load(Ordering::Relaxed) {
            step(self, &mut packet);
        }
    }

    /// What cannot be sent is lost, as packets are.
    fn there(&self, packet: &mut [u8]) {
        let Ok((length, from)) = self.near.recv_from(packet) else { return };
        *self.dialler.lock().unwrap() = Some(from);
        if !self.is_cut.load(Ordering::Relaxed) {
            let _ = self.far.send(&packet[..length]);
        }
    }

    fn back(&self, packet: &mut [u8]) {
        let Ok(length) = self.far.recv(packet) else { return };
        let dialler = *self.dialler.lock().unwrap();
        if let Some(to) = dialler.filter(|_| !self.is_cut.load(Ordering::Relaxed)) {
            let _ = self.near.send_to(&packet[..length], to);
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.wire.ends.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}
