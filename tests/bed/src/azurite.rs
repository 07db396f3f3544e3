//! The storage emulator.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::assets::{self, Assets};
use crate::certificates::Authority;
use crate::guard::Process;
use crate::proxy::{StorageAddresses, StorageProxy};
use crate::{BedError, folder};

/// The emulator's account, which is the same everywhere and no secret.
pub const ACCOUNT: &str = "devstoreaccount1";
/// The key of that account: public, in the emulator's documentation.
pub const ACCOUNT_KEY: &str = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";

/// A running emulator. It ends when it is dropped.
pub struct Azurite {
    assets: Assets,
    folder: PathBuf,
    addresses: StorageAddresses,
    /// Where it has its certificates, if it serves TLS.
    tls: Option<Tls>,
    in_memory: bool,
    process: Option<Process>,
}

#[derive(Clone)]
struct Tls {
    authority: PathBuf,
    certificate: PathBuf,
    key: PathBuf,
}

/// A token that an emulator which was started with TLS accepts. It looks at the claims of Microsoft Entra ID, at no signature.
pub fn access_token(lifetime: Duration) -> String {
    use base64::Engine as _;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_secs();
    let tenant = "11111111-1111-1111-1111-111111111111";
    let claims = serde_json::json!({
        "aud": "https://storage.azure.com", "iss": format!("https://sts.windows.net/{tenant}/"), "tid": tenant,
        "iat": now, "nbf": now.saturating_sub(5), "exp": now + lifetime.as_secs(), "ver": "1.0",
    });
    let part = |text: &str| base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(text);
    format!("{}.{}.{}", part(r#"{"alg":"RS256","typ":"JWT"}"#), part(&claims.to_string()), part("not a signature"))
}

impl Azurite {
    /// Starts an emulator on free ports.
    ///
    /// # Errors
    /// If it does not come up.
    pub fn start(assets: &Assets) -> Result<Azurite, BedError> {
        Azurite::start_in(assets, folder::new("azurite")?, None, false)
    }

    /// Starts one that writes nothing to the disk, and forgets everything at its end.
    ///
    /// # Errors
    /// If it does not come up.
    pub fn start_in_memory(assets: &Assets) -> Result<Azurite, BedError> {
        Azurite::start_in(assets, folder::new("azurite")?, None, true)
    }

    /// Starts one that serves TLS, with a certificate of an authority of its own, and takes tokens besides keys.
    ///
    /// # Errors
    /// If it does not come up.
    pub fn start_with_tls(assets: &Assets) -> Result<Azurite, BedError> {
        let folder = folder::new("azurite-tls")?;
        let authority = Authority::new()?;
        let server = authority.server()?;
        let tls = Tls { authority: folder.join("ca.crt"), certificate: folder.join("serving.crt"), key: folder.join("serving.key") };
        for (file, text) in [(&tls.authority, &authority.certificate), (&tls.certificate, &server.certificate), (&tls.key, &server.key)] {
            std::fs::write(file, text)?;
        }
        Azurite::start_in(assets, folder, Some(tls), false)
    }

    fn start_in(assets: &Assets, folder: PathBuf, tls: Option<Tls>, in_memory: bool) -> Result<Azurite, BedError> {
        const TRIES: usize = 3;
        let mut last = BedError::new("not tried");
        for _ in 0..TRIES {
            // Another process may take a port between the choice and the bind: then once more with others.
            let addresses = StorageAddresses { blob: free_address()?, queue: free_address()?, table: free_address()? };
            let mut azurite =
                Azurite { assets: assets.clone(), folder: folder.clone(), addresses, tls: tls.clone(), in_memory, process: None };
            match azurite.resume() {
                Ok(()) => return Ok(azurite),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// The emulator that the tests of this process share. In memory: it would write all its tables out every five seconds, the
    /// longer the more tests have run, and answer nobody meanwhile.
    ///
    /// # Errors
    /// If it does not come up.
    pub fn of_process() -> Result<&'static Azurite, BedError> {
        static SHARED: OnceLock<Result<Azurite, String>> = OnceLock::new();
        let start = || assets::ensure().and_then(|assets| Azurite::start_in_memory(&assets)).map_err(|error| error.to_string());
        SHARED.get_or_init(start).as_ref().map_err(|error| BedError::new(error.clone()))
    }

    /// Starts it again on the same ports and with the same data, after [`Azurite::interrupt`].
    ///
    /// # Errors
    /// If it does not come up.
    pub fn resume(&mut self) -> Result<(), BedError> {
        let StorageAddresses { blob, queue, table } = self.addresses;
        let port = |address: SocketAddr| address.port().to_string();
        let mut arguments = vec![
            self.assets.azurite.to_string_lossy().into_owned(),
            "--silent".into(),
            "--disableTelemetry".into(),
            "--skipApiVersionCheck".into(),
            "--blobPort".into(),
            port(blob),
            "--queuePort".into(),
            port(queue),
            "--tablePort".into(),
            port(table),
        ];
        if self.in_memory {
            arguments.push("--inMemoryPersistence".into());
        } else {
            arguments.extend(["--location".into(), self.folder.to_string_lossy().into_owned()]);
        }
        if let Some(Tls { certificate, key, .. }) = &self.tls {
            let text = |path: &PathBuf| path.to_string_lossy().into_owned();
            arguments.extend(["--oauth".into(), "basic".into(), "--cert".into(), text(certificate), "--key".into(), text(key)]);
        }
        let mut process = Process::start("azurite", &self.folder, &self.assets.node, arguments, std::iter::empty::<(&str, &str)>())?;
        let listens = |address: SocketAddr| TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_ok();
        process.until(Duration::from_secs(60), || [blob, queue, table].into_iter().all(listens))?;
        self.process = Some(process);
        Ok(())
    }

    /// Stops it; data and ports are kept. Asked politely, since it writes its tables and queues to disk only then.
    pub fn interrupt(&mut self) {
        if let Some(process) = self.process.take() {
            // It is killed if it does not stop, and the test that counts on its data says so.
            let _ = process.stop(Duration::from_secs(10));
        }
    }

    /// The connection string of its account.
    pub fn connection_string(&self) -> String {
        let text = self.addresses.connection_string();
        if self.tls.is_some() { text.replace("http://", "https://").replace("=http;", "=https;") } else { text }
    }

    /// The endpoints of its account: of blobs, queues and tables.
    pub fn endpoints(&self) -> [String; 3] {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        let StorageAddresses { blob, queue, table } = self.addresses;
        [blob, queue, table].map(|address| format!("{scheme}://{address}/{ACCOUNT}"))
    }

    /// The file with the certificate of its authority, if it serves TLS.
    pub fn authority_file(&self) -> Option<&std::path::Path> {
        self.tls.as_ref().map(|tls| tls.authority.as_path())
    }

    /// A proxy in front of it that counts requests and can break them.
    ///
    /// # Errors
    /// If it cannot listen.
    pub fn proxy(&self) -> Result<StorageProxy, BedError> {
        StorageProxy::start(self.addresses)
    }
}

/// An address of this machine that nobody listens on now.
///
/// Below the range from which the system takes the ports of outgoing connections: a server that is interrupted finds its
/// port free when it resumes.
pub fn free_address() -> Result<SocketAddr, BedError> {
    const FIRST: u32 = 15_000;
    const NUMBER: u32 = 17_000;
    static TRIED: AtomicU32 = AtomicU32::new(0);
    // Processes begin far from each other.
    let begin = std::process::id().wrapping_mul(2_654_435_761) % NUMBER;
    for _ in 0..NUMBER {
        let offset = (begin + TRIED.fetch_add(1, Ordering::Relaxed)) % NUMBER;
        let port = u16::try_from(FIRST + offset).unwrap_or_default();
        if let Ok(listener) = TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
            return Ok(listener.local_addr()?);
        }
    }
    Err(BedError::new("no port between 15000 and 32000 is free"))
}
