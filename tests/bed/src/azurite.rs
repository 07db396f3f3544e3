//! The storage emulator.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::assets::{self, Assets};
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
    process: Option<Process>,
}

impl Azurite {
    /// Starts an emulator on free ports.
    ///
    /// # Errors
    /// If it does not come up.
    pub fn start(assets: &Assets) -> Result<Azurite, BedError> {
        const TRIES: usize = 3;
        let folder = folder::new("azurite")?;
        let mut last = BedError::new("not tried");
        for _ in 0..TRIES {
            // Another process may take a port between the choice and the bind: then once more with others.
            let addresses = StorageAddresses { blob: free_address()?, queue: free_address()?, table: free_address()? };
            let mut azurite = Azurite { assets: assets.clone(), folder: folder.clone(), addresses, process: None };
            match azurite.resume() {
                Ok(()) => return Ok(azurite),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// The emulator that the tests of this process share.
    ///
    /// # Errors
    /// If it does not come up.
    pub fn of_process() -> Result<&'static Azurite, BedError> {
        static SHARED: OnceLock<Result<Azurite, String>> = OnceLock::new();
        let start = || assets::ensure().and_then(|assets| Azurite::start(&assets)).map_err(|error| error.to_string());
        SHARED.get_or_init(start).as_ref().map_err(|error| BedError::new(error.clone()))
    }

    /// Starts it again on the same ports and with the same data, after [`Azurite::interrupt`].
    ///
    /// # Errors
    /// If it does not come up.
    pub fn resume(&mut self) -> Result<(), BedError> {
        let StorageAddresses { blob, queue, table } = self.addresses;
        let port = |address: SocketAddr| address.port().to_string();
        let arguments = [
            self.assets.azurite.to_string_lossy().into_owned(),
            "--silent".into(),
            "--disableTelemetry".into(),
            "--skipApiVersionCheck".into(),
            "--location".into(),
            self.folder.to_string_lossy().into_owned(),
            "--blobPort".into(),
            port(blob),
            "--queuePort".into(),
            port(queue),
            "--tablePort".into(),
            port(table),
        ];
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
        self.addresses.connection_string()
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
