use std::sync::Arc;
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, SignatureScheme};

use super::{ClusterKey, Endpoint, Warnings, accept, address, endpoint, hello, socket};
use crate::udp::{ConnectError, settings, tls};

#[tokio::test]
async fn a_different_key_is_refused_and_logged_on_both_sides() {
    let a = endpoint("a");
    let other = ClusterKey::from_bytes([8; 32]);
    let b = Endpoint::new(socket(), &other, hello("b")).unwrap();
    let warnings = Warnings::default();
    let _guard = warnings.collect();
    for _ in 0..3 {
        let error = a.connect(address(&b)).await.unwrap_err();
        let ours = super::key().fingerprint();
        assert_eq!(error, ConnectError::DifferentKey { addr: address(&b), fingerprint: ours });
        assert!(error.to_string().contains("different cluster.key"), "{error}");
        assert_eq!(error.retry_after(), Duration::from_secs(1));
    }
    let nobody = tokio::time::timeout(Duration::from_millis(50), b.accept()).await;
    assert!(nobody.is_err(), "nobody was accepted");
    let said = warnings.take();
    for (side, peer, key) in
        [("dialler", address(&b), super::key()), ("dialled", address(&a), other)]
    {
        let lines = said.iter().filter(|line| {
            line.contains("different cluster.key")
                && line.contains(&format!("remote={peer}"))
                && line.contains(&key.fingerprint())
        });
        assert_eq!(lines.count(), 1, "the {side} logs it once: {said:#?}");
    }
}

/// Takes any server: what a program without the key would use.
#[derive(Debug)]
struct AnyServer;

impl ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

#[tokio::test]
async fn a_dialler_that_trusts_anybody_is_still_refused() {
    let b = endpoint("b");
    let warnings = Warnings::default();
    let _guard = warnings.collect();
    let stranger = ClusterKey::from_bytes([9; 32]);
    let (tls, _) = tls::configs_verified_by(&stranger, |pin| (Arc::new(AnyServer), Arc::new(pin)));
    let mut client = quinn::ClientConfig::new(tls);
    client.transport_config(settings::transport());
    let quinn = quinn::Endpoint::client(([127, 0, 0, 1], 0).into()).unwrap();
    // Its own side of the handshake is done before the server has looked at
    // its key, so the refusal is what it reads, not what it dials.
    let connection = quinn.connect_with(client, address(&b), "store").unwrap().await.unwrap();
    let mut stream = connection.open_uni().await.unwrap();
    let _ = stream.write_all(b"C\x02\0\0\0{}").await;
    let end = connection.closed().await;
    assert!(tls::is_key_refusal(&end), "{end}");
    let said = warnings.take();
    let at = format!("remote={}", quinn.local_addr().unwrap());
    assert!(
        said.iter().any(|line| line.contains("different cluster.key") && line.contains(&at)),
        "{said:?}"
    );
}

#[tokio::test]
async fn a_dialler_without_any_key_is_refused() {
    let b = endpoint("b");
    let warnings = Warnings::default();
    let _guard = warnings.collect();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyServer))
        .with_no_client_auth();
    tls.alpn_protocols = vec![b"store".to_vec()];
    let tls = quinn::crypto::rustls::QuicClientConfig::try_from(tls).unwrap();
    let quinn = quinn::Endpoint::client(([127, 0, 0, 1], 0).into()).unwrap();
    let client = quinn::ClientConfig::new(Arc::new(tls));
    if let Ok(connection) = quinn.connect_with(client, address(&b), "store").unwrap().await {
        connection.closed().await;
    }
    let said = warnings.take();
    assert!(said.iter().any(|line| line.contains("refused a peer")), "{said:?}");
}

#[tokio::test]
async fn noise_on_the_port_does_nothing() {
    let (a, b) = (endpoint("a"), endpoint("b"));
    let (link, other) = super::pair(&a, &b).await;
    let mut events = super::start(&other);
    let noise = socket();
    let mut state = 1_u32;
    for round in 0..500 {
        let mut datagram = vec![0; (round * 7) % 1500];
        for byte in &mut datagram {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            *byte = (state >> 24) as u8;
        }
        // Every kind of first byte, among them those of a first packet.
        if let Some(first) = datagram.first_mut() {
            *first = round as u8;
        }
        if round % 2 == 0 && datagram.len() > 5 {
            datagram[..5].copy_from_slice(&[0xc0, 0, 0, 0, 1]);
        }
        noise.send_to(&datagram, address(&b)).unwrap();
        if round % 20 == 0 {
            tokio::task::yield_now().await;
        }
    }
    link.send(crate::udp::Lane::Urgent, b"fine").unwrap();
    assert_eq!(events.frame().await.1, "fine");
    let (dialled, _) = tokio::join!(a.connect(address(&b)), accept(&b));
    dialled.unwrap();
}

#[tokio::test]
async fn a_peer_that_stops_halfway_delays_nobody() {
    let (a, b) = (endpoint("a"), endpoint("b"));
    // Authenticated, but silent: no hello ever comes.
    let (client, _) = settings::sides(&super::key());
    let quinn = quinn::Endpoint::client(([127, 0, 0, 1], 0).into()).unwrap();
    let mut silent = Vec::new();
    for _ in 0..20 {
        let connecting = quinn.connect_with(client.clone(), address(&b), "store").unwrap();
        silent.push(connecting.await.unwrap());
    }
    let (link, accepted) = super::pair(&a, &b).await;
    assert_eq!(accepted.remote(), address(&a));
    assert!(!link.is_closed());
    // And they are let go of.
    for connection in silent {
        tokio::time::timeout(super::PATIENCE, connection.closed()).await.expect("closed in time");
    }
}
