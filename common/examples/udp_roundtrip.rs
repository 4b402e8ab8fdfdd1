//! How fast links are: two endpoints on loopback, each on a thread with a
//! runtime of its own.
//!
//! ```text
//! cargo run --release -p store-common --example udp_roundtrip [-- SECONDS]
//! ```
//!
//! Prints round trips of small frames (one under way, as a quiet cluster; and
//! 32 at a time, as a busy one) and the rate of large frames in one direction,
//! each with the processor time of the whole program.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use store_common::control::{Hello, PROTOCOL_VERSION, Party};
use store_common::udp::{ClusterKey, Endpoint, Lane, Link, Receive, SendError};
use tokio::sync::mpsc;

type Error = Box<dyn std::error::Error + Send + Sync>;

/// What the far side does: echo on `Urgent`, count on `Bulk` and answer the
/// last frame of a run, which is empty.
struct Far(Link);

impl Receive for Far {
    fn frame(&self, lane: Lane, frame: Bytes) {
        let answered = match lane {
            Lane::Bulk if !frame.is_empty() => Ok(()),
            _ => self.0.send(lane, &frame),
        };
        if let Err(error) = answered {
            eprintln!("no echo: {error}");
        }
    }

    fn closed(&self, _reason: String) {}
}

/// The near side hands frames to the measuring loop.
struct Near(mpsc::UnboundedSender<Bytes>);

impl Receive for Near {
    fn frame(&self, _lane: Lane, frame: Bytes) {
        // Fails when the measurement is over.
        let _ = self.0.send(frame);
    }

    fn closed(&self, _reason: String) {}
}

fn endpoint(name: &str) -> Result<Endpoint, Error> {
    let hello =
        Hello { version: PROTOCOL_VERSION, from: Party::LoadBalancer { name: name.into() } };
    let socket = UdpSocket::bind(("127.0.0.1", 0))?;
    Ok(Endpoint::new(socket, &ClusterKey::from_bytes([1; 32]), hello)?)
}

fn runtime() -> Result<tokio::runtime::Runtime, Error> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?)
}

fn far(addr: &std::sync::mpsc::Sender<SocketAddr>) -> Result<(), Error> {
    runtime()?.block_on(async {
        let endpoint = endpoint("far")?;
        addr.send(endpoint.local_addr()?)?;
        if let Some((link, _)) = endpoint.accept().await {
            link.start(Arc::new(Far(link.clone())));
            link.closed().await;
        }
        Ok(())
    })
}

/// Processor seconds of this process so far, both threads, user and system.
fn cpu_secs() -> f64 {
    // Fields 14 and 15 of `proc_pid_stat(5)`, in hundredths of a second.
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let after_name = stat.rsplit(')').next().unwrap_or_default();
    let ticks = after_name.split_whitespace().skip(11).take(2);
    ticks.filter_map(|field| field.parse::<f64>().ok()).sum::<f64>() / 100.0
}

async fn round_trips(
    link: &Link,
    echoes: &mut mpsc::UnboundedReceiver<Bytes>,
    bytes: usize,
    under_way: usize,
    duration: Duration,
) -> Result<(), Error> {
    let frame = vec![0; bytes];
    let (begin, cpu) = (Instant::now(), cpu_secs());
    let mut times = Vec::new();
    while begin.elapsed() < duration {
        let sent = Instant::now();
        for _ in 0..under_way {
            link.send(Lane::Urgent, &frame)?;
        }
        for _ in 0..under_way {
            echoes.recv().await.ok_or("the link ended")?;
        }
        times.push(sent.elapsed());
    }
    let (took, cpu) = (begin.elapsed().as_secs_f64(), cpu_secs() - cpu);
    times.sort_unstable();
    let frames = (times.len() * under_way) as f64;
    println!(
        "{bytes:>7} bytes, {under_way:>2} at a time: {:>8.0} frames/s, p50 {:>6.1} us, p99 {:>6.1} us, {:>5.1} us CPU per frame",
        frames / took,
        times[times.len() / 2].as_secs_f64() * 1e6,
        times[times.len() * 99 / 100].as_secs_f64() * 1e6,
        cpu * 1e6 / frames,
    );
    Ok(())
}

async fn bulk(
    link: &Link,
    echoes: &mut mpsc::UnboundedReceiver<Bytes>,
    bytes: usize,
    duration: Duration,
) -> Result<(), Error> {
    let frame = vec![0; bytes];
    let (begin, cpu) = (Instant::now(), cpu_secs());
    let mut frames = 0.0;
    while begin.elapsed() < duration {
        match link.send(Lane::Bulk, &frame) {
            Ok(()) => frames += 1.0,
            Err(SendError::Full) => tokio::time::sleep(Duration::from_millis(1)).await,
            Err(error) => return Err(error.into()),
        }
    }
    while link.send(Lane::Bulk, &[]) == Err(SendError::Full) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    echoes.recv().await.ok_or("the link ended")?;
    let (took, cpu) = (begin.elapsed().as_secs_f64(), cpu_secs() - cpu);
    let megabytes = frames * bytes as f64 / 1e6;
    println!(
        "{bytes:>7} bytes, one way: {:>8.0} MB/s, {:>5.2} ms CPU per MB",
        megabytes / took,
        cpu * 1e3 / megabytes,
    );
    Ok(())
}

fn main() -> Result<(), Error> {
    let secs = std::env::args().nth(1).map_or(Ok(2.0), |text| text.parse())?;
    let duration = Duration::from_secs_f64(secs);
    let (sender, addr) = std::sync::mpsc::channel();
    let other = std::thread::spawn(move || far(&sender));
    let addr = addr.recv()?;
    runtime()?.block_on(async {
        let endpoint = endpoint("near")?;
        let (link, _) = endpoint.connect(addr).await?;
        let (sender, mut echoes) = mpsc::unbounded_channel();
        link.start(Arc::new(Near(sender)));
        for bytes in [32, 1000, 16 * 1024] {
            round_trips(&link, &mut echoes, bytes, 1, duration).await?;
        }
        round_trips(&link, &mut echoes, 100, 32, duration).await?;
        for bytes in [128 * 1024, 4 * 1024 * 1024] {
            bulk(&link, &mut echoes, bytes, duration).await?;
        }
        endpoint.close().await;
        Ok::<(), Error>(())
    })?;
    other.join().map_err(|_| "the far side panicked")?
}
