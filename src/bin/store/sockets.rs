//! Binding ports: exactly the one that was asked for, or the next free one.

use std::fmt;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::time::Duration;

use crate::failure::{Failure, Outcome};
use crate::text::Connection;

/// How many ports are tried before giving up.
const SEARCH: u16 = 200;

/// Which port to bind.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Port {
    /// This one or none (0: any).
    Exactly(u16),
    /// This one or the next free one.
    From(u16),
}

impl Port {
    /// What was asked for counts, then what is recorded, then the default.
    pub(crate) fn choose(asked: Option<u16>, recorded: Option<u16>, default: Port) -> Self {
        asked.or(recorded).map_or(default, Port::Exactly)
    }
}

/// What a socket is for, in errors.
#[derive(Clone, Copy, Debug)]
struct Purpose<'a> {
    /// `TCP` or `UDP`.
    protocol: &'static str,
    /// Who connects to it.
    audience: &'static str,
    /// How to choose another address.
    advice: &'a str,
}

/// How to choose another address for clients.
pub(crate) const CLIENT_OPTIONS: &str = "choose another with --cip and --cport";
/// How to choose another address for servers.
pub(crate) const SERVER_OPTIONS: &str = "choose another with --sip and --sport";

impl fmt::Display for Purpose<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, for {}", self.protocol, self.audience)
    }
}

/// Listens for clients.
pub(crate) fn bind_clients(ip: IpAddr, port: Port, advice: &str) -> Outcome<TcpListener> {
    let purpose = Purpose { protocol: "TCP", audience: "clients", advice };
    bind(ip, port, purpose, |address| {
        let listener = TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        Ok(listener)
    })
}

/// Listens for servers.
pub(crate) fn bind_servers(ip: IpAddr, port: Port, advice: &str) -> Outcome<UdpSocket> {
    let purpose = Purpose { protocol: "UDP", audience: "servers", advice };
    bind(ip, port, purpose, |address| {
        let socket = UdpSocket::bind(address)?;
        socket.set_nonblocking(true)?;
        Ok(socket)
    })
}

fn bind<S>(
    ip: IpAddr,
    port: Port,
    purpose: Purpose<'_>,
    bind: impl Fn(SocketAddr) -> io::Result<S>,
) -> Outcome<S> {
    let (first, last) = match port {
        Port::Exactly(port) => (port, port),
        Port::From(port) => (port, port.saturating_add(SEARCH)),
    };
    let advice = purpose.advice;
    for port in first..=last {
        let address = SocketAddr::new(ip, port);
        match bind(address) {
            Ok(socket) => return Ok(socket),
            Err(error) if error.kind() == ErrorKind::AddrInUse => {}
            Err(error) => {
                return Err(Failure::usage(format!(
                    "cannot listen on {address} ({purpose}): {error}; {advice}"
                )));
            }
        }
    }
    Err(Failure::usage(if first == last {
        let address = SocketAddr::new(ip, first);
        let holder = holder(address, purpose);
        format!("{address} ({purpose}) is taken by {holder}; {advice}")
    } else {
        format!("{ip}, ports {first} to {last} ({purpose}) are all taken; {advice}")
    }))
}

/// Who listens there, as far as it tells.
fn holder(address: SocketAddr, purpose: Purpose<'_>) -> String {
    if purpose.protocol == "TCP" {
        let stats = Connection::connect(address, Duration::from_millis(300))
            .and_then(|mut connection| connection.stats());
        if let Ok(stats) = stats {
            if let (Some(name), Some(pid)) = (stats.get("lb.name"), stats.get("lb.pid")) {
                return format!("load balancer {name} (pid {pid})");
            }
            if let Some(pid) = stats.get("pid") {
                return format!("a memcached or store server (pid {pid})");
            }
        }
    }
    "another process".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    const IP: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    #[test]
    fn a_taken_port_is_named_or_passed_over() {
        let taken = UdpSocket::bind((IP, 0)).unwrap();
        let port = taken.local_addr().unwrap().port();
        let failure = bind_servers(IP, Port::Exactly(port), SERVER_OPTIONS).unwrap_err();
        assert_eq!(failure.code, crate::failure::USAGE);
        assert!(failure.message.contains(&format!("127.0.0.1:{port}")), "{failure}");
        assert!(failure.message.contains("--sport"), "{failure}");
        let next = bind_servers(IP, Port::From(port), SERVER_OPTIONS).unwrap();
        assert!(next.local_addr().unwrap().port() > port);
    }

    #[test]
    fn what_was_asked_for_comes_first() {
        let default = Port::From(7001);
        assert_eq!(Port::choose(Some(1), Some(2), default), Port::Exactly(1));
        assert_eq!(Port::choose(None, Some(2), default), Port::Exactly(2));
        assert_eq!(Port::choose(None, None, default), default);
    }
}
