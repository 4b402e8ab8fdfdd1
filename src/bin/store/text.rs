//! A small blocking client of the text protocol, for what the commands
//! themselves ask: statistics, the leader's address, one set and one get.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// Answers of this process's own servers are short: a longer line is not theirs.
const MAX_LINE_BYTES: u64 = 64 * 1024;

/// `STAT <name> <value>` lines.
pub(crate) type Stats = BTreeMap<String, String>;

/// One connection.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: BufReader<TcpStream>,
}

impl Connection {
    /// Connects; every later step waits at most `timeout`, too.
    pub(crate) fn connect(address: SocketAddr, timeout: Duration) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, timeout)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(timeout))?;
        stream.set_write_timeout(Some(timeout))?;
        Ok(Connection { stream: BufReader::new(stream) })
    }

    fn send(&mut self, request: &str) -> io::Result<()> {
        self.stream.get_mut().write_all(request.as_bytes())
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        let read = io::Read::take(&mut self.stream, MAX_LINE_BYTES).read_line(&mut line);
        read.map_err(|error| match error.kind() {
            // What Linux calls it says nothing to anybody.
            io::ErrorKind::WouldBlock => {
                io::Error::new(io::ErrorKind::TimedOut, "no answer in time")
            }
            _ => error,
        })?;
        if !line.ends_with('\n') {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the answer breaks off"));
        }
        line.truncate(line.trim_end().len());
        Ok(line)
    }

    /// Where clients reach the leader, as a load balancer knows it.
    pub(crate) fn leader(&mut self) -> io::Result<Option<SocketAddr>> {
        let stats = self.stats()?;
        let name = stats.get("lb.leader").map_or("-", String::as_str);
        let Some(address) = stats.get(&format!("server.{name}.client")) else { return Ok(None) };
        address.parse().map(Some).map_err(|_| unexpected(address))
    }

    /// All statistics.
    pub(crate) fn stats(&mut self) -> io::Result<Stats> {
        self.send("stats\r\n")?;
        let mut stats = Stats::new();
        loop {
            let line = self.line()?;
            if line == "END" {
                return Ok(stats);
            }
            let name_and_value = line.strip_prefix("STAT ").ok_or_else(|| unexpected(&line))?;
            let (name, value) = name_and_value.split_once(' ').unwrap_or((name_and_value, ""));
            stats.insert(name.to_owned(), value.to_owned());
        }
    }

    /// Where clients reach the servers, as this one knows them.
    pub(crate) fn servers(&mut self) -> io::Result<Vec<SocketAddr>> {
        self.send("get-servers\r\n")?;
        let mut servers = Vec::new();
        loop {
            match self.line()? {
                line if line == "end" => return Ok(servers),
                line => servers.push(line.parse().map_err(|_| unexpected(&line))?),
            }
        }
    }

    /// Stores a value; the answer line, e.g. `STORED`.
    pub(crate) fn set(&mut self, key: &str, value: &str) -> io::Result<String> {
        self.send(&format!("set {key} 0 0 {}\r\n{value}\r\n", value.len()))?;
        self.line()
    }

    /// Reads a value of one line.
    pub(crate) fn get(&mut self, key: &str) -> io::Result<Option<String>> {
        self.send(&format!("get {key}\r\n"))?;
        let head = self.line()?;
        if head == "END" {
            return Ok(None);
        }
        if !head.starts_with("VALUE ") {
            return Err(unexpected(&head));
        }
        let value = self.line()?;
        match self.line()?.as_str() {
            "END" => Ok(Some(value)),
            other => Err(unexpected(other)),
        }
    }

    /// Removes a key; the answer line.
    pub(crate) fn delete(&mut self, key: &str) -> io::Result<String> {
        self.send(&format!("delete {key}\r\n"))?;
        self.line()
    }
}

fn unexpected(line: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("unexpected answer `{line}`"))
}
