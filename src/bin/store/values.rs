//! How values of options are read: durations, sizes, addresses, node names.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// `50ms`, `1s`, `2m`; a bare number is milliseconds.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let number: u64 = digits
        .parse()
        .map_err(|_| format!("`{text}` is no duration: write it like 50ms, 1s or 2m"))?;
    let unit_ms = match &text[digits.len()..] {
        "ms" | "" => 1,
        "s" => 1000,
        "m" => 60_000,
        unit => return Err(format!("`{unit}` is no unit of time: use ms, s or m")),
    };
    number
        .checked_mul(unit_ms)
        .map(Duration::from_millis)
        .ok_or_else(|| format!("`{text}` is too long"))
}

/// A [`duration`] of something that is done again and again.
pub(crate) fn interval(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        Duration::ZERO => Err(format!("`{text}` is no interval: it must be more than 0")),
        interval => Ok(interval),
    }
}

/// A range of election timeouts, lower end first.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct TimeoutRange {
    /// Shortest.
    pub(crate) low_ms: u64,
    /// Longest.
    pub(crate) high_ms: u64,
}

impl TimeoutRange {
    /// As the server wants it.
    pub(crate) fn durations(self) -> (Duration, Duration) {
        (Duration::from_millis(self.low_ms), Duration::from_millis(self.high_ms))
    }
}

/// `200ms..400ms`.
pub(crate) fn timeout_range(text: &str) -> Result<TimeoutRange, String> {
    let (low, high) = text
        .split_once("..")
        .ok_or_else(|| format!("`{text}` is no range: write it like 200ms..400ms"))?;
    let (low, high) = (duration(low)?, duration(high)?);
    if low.is_zero() || high <= low {
        return Err(format!("`{text}`: the first must be more than 0 and less than the second"));
    }
    Ok(TimeoutRange { low_ms: low.as_millis() as u64, high_ms: high.as_millis() as u64 })
}

/// Smallest limit of an item's size, as memcached's.
const MIN_ITEM_BYTES: usize = 1024;
/// Largest: an item has to fit into one frame between servers, with room.
const MAX_ITEM_BYTES: usize = 8 * 1024 * 1024;

/// Checkpoints more often than this would be all that the disk does.
const MIN_CHECKPOINT_AFTER: u64 = 64 * 1024;

/// `1m`, `512k`, `2048`: as memcached's `-I`.
pub(crate) fn item_size(text: &str) -> Result<usize, String> {
    match size(text).and_then(|bytes| usize::try_from(bytes).ok()) {
        Some(bytes) if (MIN_ITEM_BYTES..=MAX_ITEM_BYTES).contains(&bytes) => Ok(bytes),
        Some(_) => Err(format!("`{text}` is out of bounds: from 1k to 8m")),
        None => Err(format!("`{text}` is no size: write it like 1m, 512k or 2048")),
    }
}

/// Bytes of log after which a checkpoint is due.
pub(crate) fn checkpoint_after(text: &str) -> Result<u64, String> {
    match size(text) {
        Some(bytes) if bytes >= MIN_CHECKPOINT_AFTER => Ok(bytes),
        Some(_) => Err(format!("`{text}` is too small: at least 64k")),
        None => Err(format!("`{text}` is no size: write it like 64m or 512k")),
    }
}

fn size(text: &str) -> Option<u64> {
    let (digits, unit) = match text.as_bytes().last() {
        Some(b'k' | b'K') => (&text[..text.len() - 1], 1 << 10),
        Some(b'm' | b'M') => (&text[..text.len() - 1], 1 << 20),
        Some(b'g' | b'G') => (&text[..text.len() - 1], 1 << 30),
        _ => (text, 1),
    };
    digits.parse::<u64>().ok()?.checked_mul(unit)
}

/// Bytes of a memory limit in MiB, as memcached's `-m`; 0 is none.
pub(crate) fn memory_bytes(limit_mib: Option<u32>) -> Option<u64> {
    limit_mib.filter(|mib| *mib > 0).map(|mib| u64::from(mib) * 1024 * 1024)
}

/// An address to listen on and to be reached at.
pub(crate) fn ip(text: &str) -> Result<IpAddr, String> {
    let ip = match text {
        "localhost" => IpAddr::V4(Ipv4Addr::LOCALHOST),
        _ => text.parse().map_err(|_| format!("`{text}` is no IP address, e.g. 127.0.0.1"))?,
    };
    if ip.is_unspecified() {
        return Err(format!(
            "others are told to reach this process at {ip}, which leads nowhere: \
             give the address of one interface"
        ));
    }
    Ok(ip)
}

/// `host:port` of something to connect to.
pub(crate) fn remote(text: &str) -> Result<SocketAddr, String> {
    let port = text.rsplit_once(':').map(|(_, port)| port.parse::<u16>());
    if !matches!(port, Some(Ok(_))) {
        return Err(format!("`{text}` has no port: write it like 192.168.1.10:5001"));
    }
    let mut found =
        text.to_socket_addrs().map_err(|error| format!("`{text}` cannot be found: {error}"))?;
    found.next().ok_or_else(|| format!("`{text}` has no address"))
}

/// The name of a node is the name of its folder.
pub(crate) fn node_name(text: &str) -> Result<String, String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    if text.is_empty() || text.len() > 64 || !text.chars().all(plain) || text.starts_with('-') {
        return Err(format!(
            "`{text}` is no node name: 1 to 64 letters, digits, `-` and `_`, e.g. srv-2"
        ));
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units() {
        assert_eq!(duration("50ms"), Ok(Duration::from_millis(50)));
        assert_eq!(duration("50"), Ok(Duration::from_millis(50)));
        assert_eq!(duration("2s"), Ok(Duration::from_secs(2)));
        assert_eq!(duration("1m"), Ok(Duration::from_secs(60)));
        for bad in ["", "ms", "-1ms", "1h", "1.5s", "99999999999999999999s", "9999999999999999999m"]
        {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_interval_is_never_zero() {
        assert_eq!(interval("5ms"), Ok(Duration::from_millis(5)));
        assert!(interval("0s").unwrap_err().contains("more than 0"));
    }

    #[test]
    fn a_remote_address_has_a_port() {
        assert!(remote("127.0.0.1:5001").is_ok() && remote("[::1]:5001").is_ok());
        for bad in ["", "127.0.0.1", "localhost", "localhost:", "a:b", "127.0.0.1:70000"] {
            assert!(remote(bad).unwrap_err().contains("has no port"), "{bad}");
        }
    }

    #[test]
    fn ranges_go_up() {
        assert_eq!(timeout_range("200ms..400ms"), Ok(TimeoutRange { low_ms: 200, high_ms: 400 }));
        for bad in ["200ms", "400ms..200ms", "0..1", "1..1", ".."] {
            assert!(timeout_range(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn item_sizes_are_those_of_memcached() {
        assert_eq!(item_size("1m"), Ok(1024 * 1024));
        assert_eq!(item_size("512k"), Ok(512 * 1024));
        assert_eq!(item_size("2048"), Ok(2048));
        for bad in ["", "m", "1", "9m", "-1", "99999999999999999999m"] {
            assert!(item_size(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn checkpoints_are_not_due_all_the_time() {
        assert_eq!(checkpoint_after("64m"), Ok(64 << 20));
        assert_eq!(checkpoint_after("2g"), Ok(2 << 30));
        for bad in ["", "0", "63k", "64x", "99999999999999999999g"] {
            assert!(checkpoint_after(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_memory_limit_is_in_mib_and_none_by_default() {
        assert_eq!(memory_bytes(Some(64)), Some(64 << 20));
        assert_eq!(memory_bytes(Some(u32::MAX)), Some(u64::from(u32::MAX) << 20));
        assert_eq!((memory_bytes(Some(0)), memory_bytes(None)), (None, None));
    }

    #[test]
    fn an_address_must_lead_somewhere() {
        assert_eq!(ip("localhost"), Ok(IpAddr::V4(Ipv4Addr::LOCALHOST)));
        assert!(ip("::1").is_ok());
        for bad in ["", "0.0.0.0", "::", "127.0.0.1:80", "300.1.1.1"] {
            assert!(ip(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn node_names_stay_in_their_folder() {
        assert!(node_name("srv-1").is_ok());
        for bad in ["", ".", "..", "a/b", "-x", "a b", "srv-1/../x"] {
            assert!(node_name(bad).is_err(), "{bad}");
        }
    }
}
