//! The socket, which can be closed and opened again at the same address.

use std::{io, net::SocketAddr};

use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto::Builder,
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    task::{JoinHandle, JoinSet},
};

use crate::TestService;

/// An address, and the task that listens there.
pub(crate) struct Socket {
    pub(crate) address: SocketAddr,
    task: Option<JoinHandle<()>>,
}

impl Socket {
    /// Listens on a free port.
    pub(crate) async fn open(service: TestService) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        Ok(Self {
            address: listener.local_addr()?,
            task: Some(tokio::spawn(accept(listener, service))),
        })
    }

    /// Closes the socket and all connections.
    pub(crate) async fn close(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
            // The port is free once the task is gone.
            let _ = task.await;
        }
    }

    /// Listens on the same port again.
    pub(crate) async fn open_again(&mut self, service: TestService) -> io::Result<()> {
        if self.task.is_none() {
            let listener = TcpListener::bind(self.address).await?;
            self.task = Some(tokio::spawn(accept(listener, service)));
        }
        Ok(())
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

/// Serves connections until it is aborted, which closes them.
async fn accept(listener: TcpListener, service: TestService) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((connection, _)) => {
                    connections.spawn(serve(connection, service.clone()));
                }
                // Too many open files, or a connection that is gone already.
                Err(_) => tokio::task::yield_now().await,
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn serve(connection: TcpStream, service: TestService) {
    let _ = connection.set_nodelay(true);
    let builder = Builder::new(TokioExecutor::new());
    let service = TowerToHyperService::new(service);
    // A fault of the test breaks the connection.
    let _ = builder
        .serve_connection(TokioIo::new(connection), service)
        .await;
}
