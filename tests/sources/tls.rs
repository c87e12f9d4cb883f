//! TLS in front of the demo platform.

use std::path::PathBuf;
use std::sync::Arc;

use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;

/// A certificate that nobody trusts who is not told to.
pub struct Tls {
    files: tempfile::TempDir,
    server: Arc<ServerConfig>,
}

impl Tls {
    /// For 127.0.0.1.
    pub fn new() -> Self {
        Self::of(["127.0.0.1"])
    }

    /// For these names.
    pub fn of<'a>(names: impl IntoIterator<Item = &'a str>) -> Self {
        let names: Vec<_> = names.into_iter().map(str::to_owned).collect();
        let made = rcgen::generate_simple_self_signed(names).expect("a certificate is made");
        let files = tempfile::tempdir().expect("a directory");
        std::fs::write(files.path().join("ca.pem"), made.cert.pem()).expect("it is written");
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).expect("its key");
        let server = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("the versions of TLS")
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .expect("a server's configuration");
        Self { files, server: Arc::new(server) }
    }

    /// What takes a connection over TLS.
    pub fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(Arc::clone(&self.server))
    }

    /// The certificate as a bundle to trust.
    pub fn certificate(&self) -> PathBuf {
        self.files.path().join("ca.pem")
    }

    /// Serves `host` over https for as long as the test's runtime lives; its URL.
    pub async fn serve(&self, host: &str) -> String {
        let acceptor = self.acceptor();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("https://{}", listener.local_addr().expect("its address"));
        let host = host.to_owned();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, host) = (acceptor.clone(), host.clone());
                tokio::spawn(async move {
                    let mut outer = acceptor.accept(stream).await?;
                    let mut inner = TcpStream::connect(host).await?;
                    tokio::io::copy_bidirectional(&mut outer, &mut inner).await
                });
            }
        });
        url
    }
}
