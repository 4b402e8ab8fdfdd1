//! TLS 1.3 where both sides prove that they hold the cluster key.
//!
//! The key gives one Ed25519 key pair that all processes of a cluster share.
//! Each side shows the public key (RFC 7250, raw public keys: no certificate,
//! hence no dates, names or encodings to disagree about), signs the handshake
//! with the private one, and takes nothing but the same public key from the
//! other side. Client and server sign different texts (RFC 8446, section
//! 4.4.3), so that a signature cannot be reflected.

use std::sync::Arc;

use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{AlwaysResolvesClientRawPublicKeys, Resumption};
use rustls::crypto::{CryptoProvider, ring as provider, verify_tls13_signature_with_raw_key};
use rustls::pki_types::{
    CertificateDer, PrivatePkcs8KeyDer, ServerName, SubjectPublicKeyInfoDer, UnixTime,
};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{AlwaysResolvesServerRawPublicKeys, NoServerSessionStorage};
use rustls::sign::CertifiedKey;
use rustls::{
    AlertDescription, CertificateError, DigitallySignedStruct, DistinguishedName, SignatureScheme,
};

use super::key::ClusterKey;

/// Tells our handshakes from those of any other protocol over QUIC.
const ALPN: &[u8] = b"store";

/// Server name of every process: the key decides, not the name.
pub(super) const SERVER_NAME: &str = "store";

/// Header of a PKCS#8 document (RFC 8410, section 7) that holds an Ed25519
/// seed, which follows.
const PKCS8_ED25519: [u8; 16] =
    [0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];

/// The alert with which a verifier below refuses the other side's key.
const REFUSAL: AlertDescription = AlertDescription::AccessDenied;

/// Both halves of the TLS configuration.
pub(super) fn configs(key: &ClusterKey) -> (Arc<QuicClientConfig>, Arc<QuicServerConfig>) {
    configs_verified_by(key, |pin| (Arc::new(pin.clone()), Arc::new(pin)))
}

/// As [`configs`], with other verifiers than the pinned key.
pub(super) fn configs_verified_by(
    key: &ClusterKey,
    verifiers: impl FnOnce(Pin) -> (Arc<dyn ServerCertVerifier>, Arc<dyn ClientCertVerifier>),
) -> (Arc<QuicClientConfig>, Arc<QuicServerConfig>) {
    let mut seed = PKCS8_ED25519.to_vec();
    seed.extend_from_slice(&key.derive::<32>(&[b"identity"]));
    let pair = provider::sign::any_eddsa_type(&PrivatePkcs8KeyDer::from(seed))
        .expect("any 32 bytes are an Ed25519 seed");
    let public = pair.public_key().expect("an Ed25519 pair has a public key").into_owned();
    let identity = Arc::new(CertifiedKey::new(vec![CertificateDer::from(public.to_vec())], pair));
    let provider = Arc::new(crypto_provider());
    let pin = Pin { public: Arc::new(public), provider: provider.clone() };
    let (servers, clients) = verifiers(pin);

    let mut client = rustls::ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("the provider has TLS 1.3 suites")
        .dangerous()
        .with_custom_certificate_verifier(servers)
        .with_client_cert_resolver(Arc::new(AlwaysResolvesClientRawPublicKeys::new(
            identity.clone(),
        )));
    client.alpn_protocols = vec![ALPN.to_vec()];
    client.resumption = Resumption::disabled();
    client.enable_sni = false;

    let mut server = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("the provider has TLS 1.3 suites")
        .with_client_cert_verifier(clients)
        .with_cert_resolver(Arc::new(AlwaysResolvesServerRawPublicKeys::new(identity)));
    server.alpn_protocols = vec![ALPN.to_vec()];
    server.session_storage = Arc::new(NoServerSessionStorage {});
    server.send_tls13_tickets = 0;

    let client = QuicClientConfig::try_from(client).expect("QUIC's first cipher suite is there");
    let server = QuicServerConfig::try_from(server).expect("QUIC's first cipher suite is there");
    (Arc::new(client), Arc::new(server))
}

/// AES-128 first: half the rounds matter on links that carry everything.
fn crypto_provider() -> CryptoProvider {
    let mut provider = provider::default_provider();
    provider.cipher_suites = vec![
        provider::cipher_suite::TLS13_AES_128_GCM_SHA256,
        provider::cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
    ];
    provider
}

/// Whether a handshake ended because one side refused the other's key.
pub(super) fn is_key_refusal(error: &quinn::ConnectionError) -> bool {
    alert(error) == Some(u8::from(REFUSAL))
}

/// The TLS alert that ended a handshake, sent by either side.
pub(super) fn alert(error: &quinn::ConnectionError) -> Option<u8> {
    let code = match error {
        quinn::ConnectionError::TransportError(error) => error.code,
        quinn::ConnectionError::ConnectionClosed(close) => close.error_code,
        _ => return None,
    };
    // RFC 9001, section 4.8: 0x0100 and the alert.
    u64::from(code).checked_sub(0x0100).and_then(|alert| u8::try_from(alert).ok())
}

/// Takes the one public key and nothing else.
#[derive(Clone, Debug)]
pub(super) struct Pin {
    public: Arc<SubjectPublicKeyInfoDer<'static>>,
    provider: Arc<CryptoProvider>,
}

impl Pin {
    fn check(
        &self,
        shown: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
    ) -> Result<(), rustls::Error> {
        if shown.as_ref() == self.public.as_ref().as_ref() && rest.is_empty() {
            return Ok(());
        }
        // Sends the alert that `is_key_refusal` looks for.
        Err(CertificateError::ApplicationVerificationFailure.into())
    }

    fn check_signature(
        &self,
        message: &[u8],
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature_with_raw_key(
            message,
            &self.public,
            signed,
            &self.provider.signature_verification_algorithms,
        )
    }
}

fn refuse_tls12() -> rustls::Error {
    rustls::PeerIncompatible::Tls12NotOffered.into()
}

impl ServerCertVerifier for Pin {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.check(end_entity, intermediates)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(refuse_tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        _cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.check_signature(message, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

impl ClientCertVerifier for Pin {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.check(end_entity, intermediates)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(refuse_tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        _cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.check_signature(message, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}
