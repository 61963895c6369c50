//! TLS 1.3 inside QUIC: raw public keys, one key exchange, nothing resumed.
//!
//! Resumption and 0-RTT are off because a resumed session skips the verifier: a relay that left the consensus would
//! still get in, and the key exchange would run anyway.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use posta_protocol::ids::LinkPublicKey;
use posta_protocol::secret::Secret;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{AlwaysResolvesClientRawPublicKeys, ResolvesClientCert, Resumption};
use rustls::crypto::aws_lc_rs::{cipher_suite, default_provider, kx_group, sign::any_eddsa_type};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls13_signature_with_raw_key};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName, SubjectPublicKeyInfoDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{AlwaysResolvesServerRawPublicKeys, NoServerSessionStorage};
use rustls::sign::CertifiedKey;
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, PeerIncompatible, SignatureScheme};

use crate::endpoint::Admit;
use crate::error::LinkError;
use crate::transport::Audience;

/// SubjectPublicKeyInfo of an Ed25519 key up to the 32 bytes of the key (RFC 8410).
const SPKI_PREFIX: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// A node's Ed25519 link key, by which its peers know it.
pub struct LinkKey {
    seed: Secret<32>,
    public: LinkPublicKey,
}

impl fmt::Debug for LinkKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LinkKey(..)")
    }
}

impl LinkKey {
    /// The key of a 32-byte seed.
    ///
    /// # Errors
    /// [`LinkError::Key`] if the cryptography refuses the seed.
    pub fn from_seed(seed: &Secret<32>) -> Result<Self, LinkError> {
        let pair = Ed25519KeyPair::from_seed_unchecked(seed.expose()).map_err(|_| LinkError::Key)?;
        let public = pair.public_key().as_ref().try_into().map_err(|_| LinkError::Key)?;
        Ok(Self { seed: seed.duplicate(), public: LinkPublicKey(public) })
    }

    /// The public half.
    #[must_use]
    pub const fn public(&self) -> LinkPublicKey {
        self.public
    }

    /// A key of its own for a named use at one port.
    pub(crate) fn derive(&self, label: &[u8], audience: Audience, port: u16) -> Secret<32> {
        use aws_lc_rs::hmac;
        let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, self.seed.expose()));
        context.update(label);
        context.update(audience.alpn());
        context.update(&port.to_le_bytes());
        let tag = context.sign();
        Secret::new(tag.as_ref().first_chunk().copied().unwrap_or([0; 32]))
    }

    /// The key as TLS wants it.
    pub(crate) fn certified(&self) -> Result<Arc<CertifiedKey>, LinkError> {
        let pair = Ed25519KeyPair::from_seed_unchecked(self.seed.expose()).map_err(|_| LinkError::Key)?;
        let pkcs8 = pair.to_pkcs8v1().map_err(|_| LinkError::Key)?;
        let signer = any_eddsa_type(&PrivatePkcs8KeyDer::from(pkcs8.as_ref())).map_err(|_| LinkError::Key)?;
        Ok(Arc::new(CertifiedKey::new(vec![CertificateDer::from(spki(&self.public))], signer)))
    }
}

/// The key as it travels in the handshake, 44 bytes.
fn spki(key: &LinkPublicKey) -> Vec<u8> {
    [SPKI_PREFIX.as_slice(), &key.0].concat()
}

/// The key in what a peer showed, if that is one Ed25519 key and nothing else.
fn shown_key(shown: &CertificateDer<'_>, others: &[CertificateDer<'_>]) -> Option<LinkPublicKey> {
    let key = shown.as_ref().strip_prefix(SPKI_PREFIX.as_slice())?.try_into().ok()?;
    others.is_empty().then_some(LinkPublicKey(key))
}

/// The key that the other end of a connection has proved.
pub(crate) fn proved_key(connection: &quinn::Connection) -> Option<LinkPublicKey> {
    let identity = connection.peer_identity()?.downcast::<Vec<CertificateDer<'static>>>().ok()?;
    let (shown, others) = identity.split_first()?;
    shown_key(shown, others)
}

/// The one set of algorithms. A peer without the hybrid key exchange is refused, not downgraded.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    let mut provider = default_provider();
    provider.kx_groups = vec![kx_group::X25519MLKEM768];
    // AES-128 protects QUIC's first packets, as RFC 9001 says; the rest is AES-256.
    provider.cipher_suites = vec![cipher_suite::TLS13_AES_256_GCM_SHA384, cipher_suite::TLS13_AES_128_GCM_SHA256];
    Arc::new(provider)
}

fn build_error(e: impl fmt::Display) -> LinkError {
    LinkError::Build(e.to_string())
}

/// The listening side.
pub(crate) fn server_config(
    provider: &Arc<CryptoProvider>,
    audience: Audience,
    identity: Arc<CertifiedKey>,
    admit: Arc<dyn Admit>,
    mirror: bool,
) -> Result<QuicServerConfig, LinkError> {
    let verifier = AdmittedClient { audience, admit, algorithms: provider.signature_verification_algorithms };
    let mut config = rustls::ServerConfig::builder_with_provider(Arc::clone(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(build_error)?
        .with_client_cert_verifier(Arc::new(verifier))
        .with_cert_resolver(Arc::new(AlwaysResolvesServerRawPublicKeys::new(identity)));
    config.alpn_protocols = vec![audience.alpn().to_vec()];
    if mirror && audience != Audience::Directory {
        config.alpn_protocols.push(Audience::Directory.alpn().to_vec());
    }
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    QuicServerConfig::try_from(config).map_err(build_error)
}

/// The dialling side, for one peer. `nameless` is how every dialler is at a client port: it has no key, and the port would
/// not take one.
pub(crate) fn client_config(
    provider: &Arc<CryptoProvider>,
    audience: Audience,
    identity: Option<Arc<CertifiedKey>>,
    nameless: bool,
    peer: Arc<ExpectedServer>,
) -> Result<QuicClientConfig, LinkError> {
    let builder = rustls::ClientConfig::builder_with_provider(Arc::clone(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(build_error)?
        .dangerous()
        .with_custom_certificate_verifier(peer);
    let mut config = match (nameless, identity) {
        // A client never shows a key, whatever its program holds.
        (true, _) => builder.with_no_client_auth(),
        (_, Some(identity)) => {
            builder.with_client_cert_resolver(Arc::new(AlwaysResolvesClientRawPublicKeys::new(identity)))
        }
        (_, None) => builder.with_client_cert_resolver(Arc::new(Anonymous)),
    };
    config.alpn_protocols = vec![audience.alpn().to_vec()];
    config.resumption = Resumption::disabled();
    config.enable_early_data = false;
    config.enable_sni = false;
    QuicClientConfig::try_from(config).map_err(build_error)
}

/// Shows no key where a key is optional. (rustls' plain "no client authentication" offers no raw keys at all, and the
/// handshake fails.)
#[derive(Debug)]
struct Anonymous;

impl ResolvesClientCert for Anonymous {
    fn resolve(&self, _hints: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        None
    }

    fn only_raw_public_keys(&self) -> bool {
        true
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// Takes one server key and no other.
#[derive(Debug)]
pub(crate) struct ExpectedServer {
    expected: LinkPublicKey,
    /// Whether the server showed another key: QUIC's error alone can't tell this from other refusals.
    mismatch: AtomicBool,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ExpectedServer {
    pub(crate) const fn new(expected: LinkPublicKey, provider: &CryptoProvider) -> Self {
        Self { expected, mismatch: AtomicBool::new(false), algorithms: provider.signature_verification_algorithms }
    }

    pub(crate) fn mismatch(&self) -> bool {
        self.mismatch.load(Ordering::Acquire)
    }
}

impl ServerCertVerifier for ExpectedServer {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if shown_key(end_entity, intermediates) == Some(self.expected) {
            return Ok(ServerCertVerified::assertion());
        }
        self.mismatch.store(true, Ordering::Release);
        Err(CertificateError::ApplicationVerificationFailure.into())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(PeerIncompatible::Tls13RequiredForQuic.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

/// Takes the client keys that are admitted at this moment.
struct AdmittedClient {
    audience: Audience,
    admit: Arc<dyn Admit>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl fmt::Debug for AdmittedClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AdmittedClient({:?})", self.audience)
    }
}

impl ClientCertVerifier for AdmittedClient {
    fn offer_client_auth(&self) -> bool {
        self.audience != Audience::Client
    }

    fn client_auth_mandatory(&self) -> bool {
        self.audience == Audience::Link
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        match shown_key(end_entity, intermediates) {
            Some(key) if self.admit.admit(&key) => Ok(ClientCertVerified::assertion()),
            _ => Err(CertificateError::ApplicationVerificationFailure.into()),
        }
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(PeerIncompatible::Tls13RequiredForQuic.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        self.offer_client_auth()
    }
}

fn verify_signature(
    message: &[u8],
    shown: &CertificateDer<'_>,
    signature: &DigitallySignedStruct,
    algorithms: &WebPkiSupportedAlgorithms,
) -> Result<HandshakeSignatureValid, rustls::Error> {
    verify_tls13_signature_with_raw_key(message, &SubjectPublicKeyInfoDer::from(shown.as_ref()), signature, algorithms)
}
