//! A connection that can be cut or held at any byte.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::AbortHandle;

/// One of the two directions of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// From the client to the server.
    ToServer,
    /// From the server to the client.
    ToClient,
}

/// A TCP proxy on 127.0.0.1 whose connections can be cut, and held at any byte.
pub struct Wire {
    /// Where it listens.
    pub address: SocketAddr,
    flow: watch::Sender<Flow>,
    accepts: AbortHandle,
}

/// What may pass.
#[derive(Clone, Copy, Debug)]
struct Flow {
    /// Bytes that may still pass, [`Way::ToServer`] first; all of them at `u64::MAX`.
    left: [u64; 2],
    /// Bytes that have passed.
    passed: [u64; 2],
    /// Whether all connections are cut as soon as nothing may pass one way.
    cuts_at_end: bool,
    /// How often connections were cut: each lives within one number.
    cuts: u64,
    /// Whether new connections are closed as they come.
    is_cut: bool,
}

impl Wire {
    /// Starts one that leads to `server`, and lets everything pass.
    pub async fn to(server: SocketAddr) -> Wire {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (flow, _) = watch::channel(Flow {
            left: [u64::MAX; 2],
            passed: [0; 2],
            cuts_at_end: false,
            cuts: 0,
            is_cut: false,
        });
        let own = flow.clone();
        let accepts = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                if !own.borrow().is_cut {
                    tokio::spawn(connect(client, server, own.clone()));
                }
            }
        });
        Wire { address, flow, accepts: accepts.abort_handle() }
    }

    /// Closes every connection, and each new one as it comes.
    pub fn cut(&self) {
        self.flow.send_modify(Flow::cut);
    }

    /// Lets nothing pass either way. Connections stay open; new ones are made, and are as silent.
    pub fn hold(&self) {
        self.flow.send_modify(|flow| flow.left = [0; 2]);
    }

    /// Lets nothing pass this way any more once `bytes` more have passed.
    pub fn hold_after(&self, way: Way, bytes: u64) {
        self.flow.send_modify(|flow| {
            flow.cuts_at_end = false;
            flow.left[way as usize] = bytes;
        });
    }

    /// Cuts once `bytes` more have passed this way.
    pub fn cut_after(&self, way: Way, bytes: u64) {
        self.flow.send_modify(|flow| {
            flow.cuts_at_end = true;
            flow.left[way as usize] = bytes;
            if bytes == 0 {
                flow.cut();
            }
        });
    }

    /// Lets everything pass again, beginning with what was held.
    pub fn restore(&self) {
        self.flow.send_modify(|flow| {
            flow.left = [u64::MAX; 2];
            flow.cuts_at_end = false;
            flow.is_cut = false;
        });
    }

    /// How many bytes have passed this way.
    pub fn passed(&self, way: Way) -> u64 {
        self.flow.borrow().passed[way as usize]
    }

    /// Waits until it is cut, or nothing may pass this way.
    pub async fn stopped(&self, way: Way) {
        let mut flow = self.flow.subscribe();
        // The sender is ours, so this ends with what it waits for.
        let _ = flow.wait_for(|flow| flow.is_cut || flow.left[way as usize] == 0).await;
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.accepts.abort();
        self.cut();
    }
}

impl Flow {
    fn cut(&mut self) {
        self.is_cut = true;
        self.cuts += 1;
    }
}

async fn connect(client: TcpStream, server: SocketAddr, flow: watch::Sender<Flow>) {
    let mut cuts = flow.subscribe();
    let made_at = cuts.borrow().cuts;
    let passes = async {
        let Ok(server) = TcpStream::connect(server).await else { return };
        // The tests count messages, which must not wait for one another.
        let _ = (client.set_nodelay(true), server.set_nodelay(true));
        let (from_client, to_client) = client.into_split();
        let (from_server, to_server) = server.into_split();
        tokio::join!(
            pass(from_client, to_server, Way::ToServer, &flow),
            pass(from_server, to_client, Way::ToClient, &flow),
        );
    };
    tokio::select! {
        () = passes => {}
        _ = cuts.wait_for(|flow| flow.cuts != made_at) => {}
    }
}

/// Passes bytes on until one end closes.
async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, way: Way, flow: &watch::Sender<Flow>) {
    let mut changes = flow.subscribe();
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let read = match from.read(&mut buffer).await {
            Ok(read) if read > 0 => read,
            _ => {
                // A held end is not told either.
                let _ = changes.wait_for(|flow| flow.left[way as usize] > 0).await;
                let _ = to.shutdown().await;
                return;
            }
        };
        let mut rest = &buffer[..read];
        while !rest.is_empty() {
            if changes.wait_for(|flow| flow.left[way as usize] > 0).await.is_err() {
                return;
            }
            let mut taken = 0;
            flow.send_modify(|flow| taken = flow.take(way, rest.len()));
            let (now, later) = rest.split_at(taken);
            if to.write_all(now).await.is_err() {
                return;
            }
            rest = later;
            flow.send_modify(|flow| {
                if flow.left[way as usize] == 0 && flow.cuts_at_end && !flow.is_cut {
                    flow.cut();
                }
            });
        }
    }
}

impl Flow {
    /// How many of `wanted` bytes pass now.
    fn take(&mut self, way: Way, wanted: usize) -> usize {
        let way = way as usize;
        let taken = usize::try_from(self.left[way]).unwrap_or(usize::MAX).min(wanted);
        if self.left[way] != u64::MAX {
            self.left[way] -= taken as u64;
        }
        self.passed[way] += taken as u64;
        taken
    }
}
