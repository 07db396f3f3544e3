//! A way to a server that can be cut: to the API server, whose TLS goes through untouched.

use std::net::SocketAddr;
use std::path::PathBuf;

use durable_bed::control_plane::ControlPlane;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::{World, rights};

/// Passes connections on while it is open.
pub struct Gate {
    pub address: SocketAddr,
    way: watch::Sender<Way>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Open,
    /// Connections end at once.
    Closed,
    /// Connections stay, and nothing comes through: as when packets get lost.
    Silent,
}

impl Gate {
    pub async fn before(target: SocketAddr) -> Gate {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (way, state) = watch::channel(Way::Open);
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let mut state = state.clone();
                tokio::spawn(async move {
                    if *state.borrow() == Way::Open {
                        let mut server = TcpStream::connect(target).await?;
                        tokio::select! {
                            _ = tokio::io::copy_bidirectional(&mut client, &mut server) => {}
                            _ = state.wait_for(|way| *way != Way::Open) => {}
                        }
                    }
                    // What was not passed on never is.
                    let _ = state.wait_for(|way| *way != Way::Silent).await;
                    Ok::<_, std::io::Error>(())
                });
            }
        });
        Gate { address, way }
    }

    /// Before the world's API server, with an operator's kubeconfig that leads through it.
    pub async fn before_api_server(world: &World, name: &str) -> (Gate, PathBuf) {
        let direct = world.control_plane.with(ControlPlane::config).unwrap().cluster_url;
        let direct = direct.authority().unwrap().as_str();
        let gate = Gate::before(direct.parse().unwrap()).await;
        let file = world.control_plane.with(|plane| {
            let text = std::fs::read_to_string(rights::kubeconfig(plane)).unwrap();
            let through = text.replace(direct, &gate.address.to_string());
            assert_ne!(text, through, "the kubeconfig does not name {direct}");
            let file = plane.folder().join(format!("kubeconfig-{}-{name}", world.namespace));
            std::fs::write(&file, through).unwrap();
            file
        });
        (gate, file)
    }

    /// Cuts all connections, and new ones at once.
    pub fn close(&self) {
        self.way.send_replace(Way::Closed);
    }

    /// Lets nothing through any more, and tells nobody.
    pub fn fall_silent(&self) {
        self.way.send_replace(Way::Silent);
    }

    pub fn open(&self) {
        self.way.send_replace(Way::Open);
    }
}
