//! The answers to `get-servers` and `config get cluster`.
//!
//! `get-servers` is the seed's own question: one `ip:port` line for each
//! server, the best choice first, then `end`. `config get cluster` is what
//! clients of Amazon ElastiCache with auto discovery ask.

use std::net::SocketAddr;

use bytes::BufMut;

use crate::limits::MAX_DISCOVERY_LINES;

/// Longest answer to `get-servers` that is read: [`MAX_DISCOVERY_LINES`] of
/// the longest addresses, with room for a server that is more generous.
pub const MAX_ANSWER_BYTES: usize = 4096;

/// Writes the answer to `get-servers`: the first [`MAX_DISCOVERY_LINES`] of
/// `servers`, the leader being first among them, or none while there is no leader.
pub fn write_get_servers(servers: &[SocketAddr], out: &mut impl BufMut) {
    for server in servers.iter().take(MAX_DISCOVERY_LINES) {
        out.put_slice(format!("{server}\r\n").as_bytes());
    }
    out.put_slice(b"end\r\n");
}

/// Writes the answer to `config get cluster`. A client takes a new `version`
/// for a changed cluster, so it must grow with each change.
///
/// Source: Amazon ElastiCache user guide, "Adding Auto Discovery To Your
/// Client Library". The host name that precedes each address there is the
/// address itself here.
pub fn write_config_cluster(version: u64, servers: &[SocketAddr], out: &mut impl BufMut) {
    let nodes: Vec<String> = servers
        .iter()
        .map(|server| format!("{ip}|{ip}|{port}", ip = server.ip(), port = server.port()))
        .collect();
    let body = format!("{version}\n{}\n", nodes.join(" "));
    out.put_slice(format!("CONFIG cluster 0 {}\r\n{body}\r\nEND\r\n", body.len()).as_bytes());
}

/// Why an answer to `get-servers` cannot be used.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum AnswerError {
    /// A line that is neither an address nor `end`.
    #[error(
        "`{0}` in the answer to get-servers is no ip:port; is a load balancer listening there?"
    )]
    NotAnAddress(String),
    /// More than [`MAX_ANSWER_BYTES`] without `end`.
    #[error("the answer to get-servers does not end; is a load balancer listening there?")]
    TooLong,
}

/// Reads the answer to `get-servers`: `None` until `input` holds all of it.
/// Empty: there is no leader now.
pub fn parse_get_servers(input: &[u8]) -> Result<Option<Vec<SocketAddr>>, AnswerError> {
    let mut servers = Vec::new();
    for line in input.split_inclusive(|&byte| byte == b'\n') {
        let Some(line) = line.strip_suffix(b"\n") else {
            break;
        };
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line == b"end" {
            return Ok(Some(servers));
        }
        let server = std::str::from_utf8(line).ok().and_then(|line| line.parse().ok());
        servers.push(server.ok_or_else(|| {
            AnswerError::NotAnAddress(String::from_utf8_lossy(line).escape_debug().to_string())
        })?);
    }
    if input.len() > MAX_ANSWER_BYTES { Err(AnswerError::TooLong) } else { Ok(None) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn servers(texts: &[&str]) -> Vec<SocketAddr> {
        texts.iter().map(|text| text.parse().expect("an address")).collect()
    }

    fn get_servers(servers: &[SocketAddr]) -> String {
        let mut out = Vec::new();
        write_get_servers(servers, &mut out);
        String::from_utf8(out).expect("text")
    }

    fn config_cluster(version: u64, servers: &[SocketAddr]) -> String {
        let mut out = Vec::new();
        write_config_cluster(version, servers, &mut out);
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn get_servers_lists_the_first_five_and_ends() {
        assert_eq!(get_servers(&[]), "end\r\n");
        let two = servers(&["127.0.0.1:7002", "[::1]:7001"]);
        assert_eq!(get_servers(&two), "127.0.0.1:7002\r\n[::1]:7001\r\nend\r\n");
        let seven: Vec<SocketAddr> =
            (1..=7).map(|host| SocketAddr::from(([10, 0, 0, host], 7001))).collect();
        let answer = get_servers(&seven);
        assert_eq!(answer.lines().count(), MAX_DISCOVERY_LINES + 1);
        assert!(answer.starts_with("10.0.0.1:7001\r\n"));
        assert!(answer.ends_with("10.0.0.5:7001\r\nend\r\n"));
    }

    #[test]
    fn config_cluster_counts_its_body() {
        let one = servers(&["10.82.235.120:11211"]);
        let body = "12\n10.82.235.120|10.82.235.120|11211\n";
        assert_eq!(
            config_cluster(12, &one),
            format!("CONFIG cluster 0 {}\r\n{body}\r\nEND\r\n", body.len())
        );
        let two = servers(&["10.0.0.1:1", "[::1]:2"]);
        assert_eq!(
            config_cluster(3, &two),
            "CONFIG cluster 0 32\r\n3\n10.0.0.1|10.0.0.1|1 ::1|::1|2\n\r\nEND\r\n"
        );
        assert_eq!(config_cluster(1, &[]), "CONFIG cluster 0 3\r\n1\n\n\r\nEND\r\n");
    }

    #[test]
    fn an_answer_is_read_back_however_it_arrives() {
        let list = servers(&["127.0.0.1:7002", "[::1]:7001", "10.0.0.1:9"]);
        let answer = get_servers(&list);
        for cut in 0..answer.len() - 1 {
            assert_eq!(parse_get_servers(&answer.as_bytes()[..cut]), Ok(None), "cut at {cut}");
        }
        assert_eq!(parse_get_servers(answer.as_bytes()), Ok(Some(list)));
        assert_eq!(parse_get_servers(b"end\n"), Ok(Some(vec![])));
    }

    #[test]
    fn other_answers_are_errors() {
        assert_eq!(
            parse_get_servers(b"ERROR\r\n"),
            Err(AnswerError::NotAnAddress("ERROR".to_owned()))
        );
        assert_eq!(
            parse_get_servers(b"127.0.0.1:70000\r\nend\r\n"),
            Err(AnswerError::NotAnAddress("127.0.0.1:70000".to_owned()))
        );
        assert_eq!(
            parse_get_servers(b"\xff\x1b\r\n"),
            Err(AnswerError::NotAnAddress("\u{fffd}\\u{1b}".to_owned()))
        );
        assert_eq!(parse_get_servers(&[b'1'; MAX_ANSWER_BYTES + 1]), Err(AnswerError::TooLong));
    }
}
