//! A plain blocking memcached connection, one request at a time.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// Longer than the store ever takes to answer, so that a missing answer is
/// told from a late one.
pub(crate) const ANSWER: Duration = Duration::from_secs(5);

/// One connection.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: BufReader<TcpStream>,
}

impl Connection {
    pub(crate) fn open(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, ANSWER)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(ANSWER))?;
        stream.set_write_timeout(Some(ANSWER))?;
        Ok(Connection { stream: BufReader::new(stream) })
    }

    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.stream.get_mut().write_all(bytes.as_ref())
    }

    /// One line of an answer, without its end.
    pub(crate) fn line(&mut self) -> io::Result<String> {
        let mut line = Vec::new();
        self.stream.read_until(b'\n', &mut line)?;
        if !line.ends_with(b"\r\n") {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        line.truncate(line.len() - 2);
        String::from_utf8(line).map_err(|_| io::ErrorKind::InvalidData.into())
    }

    /// Sends and reads one line.
    pub(crate) fn ask(&mut self, request: impl AsRef<[u8]>) -> io::Result<String> {
        self.send(request)?;
        self.line()
    }

    /// Sends and reads lines up to the given one, which is not returned.
    pub(crate) fn ask_until(&mut self, request: &str, last: &str) -> io::Result<Vec<String>> {
        self.send(request)?;
        let mut lines = Vec::new();
        loop {
            let line = self.line()?;
            if line == last {
                return Ok(lines);
            }
            if line.starts_with("SERVER_ERROR") || line.starts_with("ERROR") {
                return Err(io::Error::other(line));
            }
            lines.push(line);
        }
    }

    /// True once the other side has closed.
    pub(crate) fn is_closed(&mut self) -> bool {
        let mut rest = Vec::new();
        match self.stream.read_to_end(&mut rest) {
            Ok(_) => true,
            Err(error) => error.kind() == io::ErrorKind::ConnectionReset,
        }
    }

    pub(crate) fn set(&mut self, key: &str, value: &str) -> io::Result<String> {
        self.ask(format!("set {key} 0 0 {}\r\n{value}\r\n", value.len()))
    }

    pub(crate) fn get(&mut self, key: &str) -> io::Result<Option<String>> {
        let lines = self.ask_until(&format!("get {key}\r\n"), "END")?;
        match lines.as_slice() {
            [] => Ok(None),
            [_, value] => Ok(Some(value.clone())),
            _ => Err(io::Error::other(format!("{lines:?}"))),
        }
    }

    pub(crate) fn stats(&mut self) -> io::Result<BTreeMap<String, String>> {
        let mut stats = BTreeMap::new();
        for line in self.ask_until("stats\r\n", "END")? {
            let mut words = line.splitn(3, ' ');
            if let (Some("STAT"), Some(name), Some(value)) =
                (words.next(), words.next(), words.next())
            {
                stats.insert(name.to_owned(), value.to_owned());
            }
        }
        Ok(stats)
    }

    /// The payload of `config get cluster`: the version, then the servers.
    pub(crate) fn config(&mut self) -> io::Result<String> {
        let head = self.ask("config get cluster\r\n")?;
        let length = head.rsplit(' ').next().and_then(|length| length.parse().ok());
        let mut payload = vec![0; length.ok_or_else(|| io::Error::other(head))?];
        self.stream.read_exact(&mut payload)?;
        match (self.line()?.as_str(), self.line()?.as_str()) {
            ("", "END") => Ok(String::from_utf8_lossy(&payload).into_owned()),
            other => Err(io::Error::other(format!("{other:?}"))),
        }
    }

    /// Client addresses of the servers, leader first; asked of a load balancer.
    pub(crate) fn servers(&mut self) -> io::Result<Vec<SocketAddr>> {
        let lines = self.ask_until("get-servers\r\n", "end")?;
        lines.iter().map(|line| line.parse().map_err(|_| io::Error::other(line.clone()))).collect()
    }
}
