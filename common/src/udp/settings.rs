//! Every setting of QUIC that differs from its default, with the reason.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use quinn::congestion::CubicConfig;
use quinn::{EndpointConfig, IdleTimeout, MtuDiscoveryConfig, TransportConfig, VarInt};
use quinn_proto::HashedConnectionIdGenerator;
use ring::hmac;

use super::key::ClusterKey;
use super::lanes::Lane;
use super::tls;

/// A link over which nothing was heard for so long is closed. The clock starts
/// anew at the first packet sent after the last one heard, at most
/// [`KEEP_ALIVE_INTERVAL`] later: a peer that vanished is noticed within the
/// sum of the two, and a process that stood still for less than this (a
/// suspended machine, a starved processor) keeps its links.
pub const SILENCE_LIMIT: Duration = Duration::from_millis(1000);

/// An idle link sends a packet so often.
pub const KEEP_ALIVE_INTERVAL: Duration = Duration::from_millis(150);

/// Assumed round trip until one is measured. The first packet of a handshake
/// is repeated after three of these; the default of 333 ms would make a lost
/// one cost a second.
const INITIAL_RTT: Duration = Duration::from_millis(20);

/// Bytes under way per lane. Each lane has its own credit and the credit of
/// the link is the sum, so that a full lane takes nothing from the others. At
/// a round trip of 50 ms this carries 80 MB/s.
const LANE_WINDOW_BYTES: u32 = 4 * 1024 * 1024;

/// Bytes that QUIC keeps per link until they are acknowledged. Well above the
/// credit of all lanes, so that it is the lane's credit that stops a lane.
const SEND_WINDOW_BYTES: u64 = 16 * LANE_WINDOW_BYTES as u64;

/// Bytes under way before the path is known. The default of 14 KB is taken up
/// by the first probe for larger packets, and what is urgent waits for it.
const INITIAL_WINDOW_BYTES: u64 = 128 * 1024;

/// Largest UDP payload that is looked for and taken. Larger packets halve the
/// cost of bulk (0.7 against 1.5 ms of CPU per MB on loopback, both ends) and
/// cost small frames nothing. QUIC hands the kernel ten packets at a time, and
/// the kernel takes no more than [`MAX_SEND_BYTES`]: with packets of 8952
/// bytes every full batch is refused, counts as lost, and the path is taken
/// for one that carries 1200 bytes.
const MAX_PAYLOAD_BYTES: u16 = 6500;

/// Packets that quinn puts into one system call at most.
const SEND_BATCH: usize = 10;

/// What one system call sends at most: one UDP payload over IPv4, the smaller
/// of the two.
const MAX_SEND_BYTES: usize = 65_535 - 20 - 8;

const _: () = assert!(MAX_PAYLOAD_BYTES as usize * SEND_BATCH <= MAX_SEND_BYTES);

/// Kernel buffers. As much as the system allows: a burst that does not fit is
/// lost and repeated, at the price of a round trip and a halved window.
const SOCKET_BUFFER_BYTES: usize = 4 * 1024 * 1024;

/// Resets sent at most so often. Each peer of a restarted process needs one;
/// what asks for a reset has passed the connection id's check.
const MIN_RESET_INTERVAL: Duration = Duration::from_millis(1);

/// Handshakes that QUIC keeps before we have looked at them, and bytes of
/// packets for each and for all of them.
const MAX_UNSEEN_HANDSHAKES: usize = 256;
const UNSEEN_BYTES: u64 = 16 * 1024;
const UNSEEN_TOTAL_BYTES: u64 = 1024 * 1024;

/// Settings of the socket's owner.
pub(super) fn endpoint(key: &ClusterKey, local: SocketAddr) -> EndpointConfig {
    // Derived, so that a process on the same address after a restart can reset
    // the links of its predecessor. Bound to the address, so that no member
    // can be made to produce a reset of another one's links (RFC 9000,
    // section 21.11).
    let at = local.to_string();
    let reset = key.derive::<32>(&[b"stateless reset", at.as_bytes()]);
    let mut config = EndpointConfig::new(Arc::new(hmac::Key::new(hmac::HMAC_SHA256, &reset)));
    // The same goes for the check that tells our connection ids from noise:
    // with a key drawn per process the packets of old links would count as
    // noise and be dropped without a reset.
    let ids = u64::from_le_bytes(key.derive::<8>(&[b"connection ids", at.as_bytes()]));
    config.cid_generator(move || Box::new(HashedConnectionIdGenerator::from_key(ids)));
    config.min_reset_interval(MIN_RESET_INTERVAL);
    config.max_udp_payload_size(MAX_PAYLOAD_BYTES).expect("within QUIC's bounds");
    config
}

/// Settings of each link.
pub(super) fn transport() -> Arc<TransportConfig> {
    let mut mtu = MtuDiscoveryConfig::default();
    mtu.upper_bound(MAX_PAYLOAD_BYTES);
    let lanes = Lane::ALL.len() as u32;
    let mut congestion = CubicConfig::default();
    congestion.initial_window(INITIAL_WINDOW_BYTES);
    let mut config = TransportConfig::default();
    config
        .max_concurrent_bidi_streams(VarInt::from_u32(0))
        .max_concurrent_uni_streams(VarInt::from_u32(lanes))
        .stream_receive_window(VarInt::from_u32(LANE_WINDOW_BYTES))
        .receive_window(VarInt::from_u32(LANE_WINDOW_BYTES * lanes))
        .send_window(SEND_WINDOW_BYTES)
        .datagram_receive_buffer_size(None)
        .congestion_controller_factory(Arc::new(congestion))
        .initial_rtt(INITIAL_RTT)
        .keep_alive_interval(Some(KEEP_ALIVE_INTERVAL))
        .max_idle_timeout(Some(IdleTimeout::try_from(SILENCE_LIMIT).expect("within QUIC's bounds")))
        .mtu_discovery_config(Some(mtu));
    Arc::new(config)
}

/// Settings of the side that dials and of the side that is dialled.
pub(super) fn sides(key: &ClusterKey) -> (quinn::ClientConfig, quinn::ServerConfig) {
    let (client_tls, server_tls) = tls::configs(key);
    let transport = transport();
    let mut client = quinn::ClientConfig::new(client_tls);
    client.transport_config(transport.clone());
    let mut server = quinn::ServerConfig::with_crypto(server_tls);
    server
        .transport_config(transport)
        .migration(false)
        .max_incoming(MAX_UNSEEN_HANDSHAKES)
        .incoming_buffer_size(UNSEEN_BYTES)
        .incoming_buffer_size_total(UNSEEN_TOTAL_BYTES);
    (client, server)
}

/// Enlarges the kernel's buffers as far as it lets us.
pub(super) fn enlarge_buffers(socket: &UdpSocket) {
    let socket = socket2::SockRef::from(socket);
    // Best effort: the system silently cuts to its maximum.
    if let Err(error) = socket
        .set_recv_buffer_size(SOCKET_BUFFER_BYTES)
        .and_then(|()| socket.set_send_buffer_size(SOCKET_BUFFER_BYTES))
    {
        tracing::debug!(%error, "UDP buffers keep their size");
    }
}
