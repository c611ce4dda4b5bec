//! Sockets: every local address has its own UDP socket, so that replies leave from the address asked.
//!
//! A wildcard socket would let the kernel choose the source by route, and a client (or a connection
//! tracking table between, as with service addresses) would drop the reply. Wildcard sockets are kept
//! beside for addresses that appear later, until [`Sockets::refresh`] has found them.

mod udp;

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwap;
use async_trait::async_trait;
use hickory_server::{
    Server as Listener,
    net::runtime::Time,
    server::{Request, RequestHandler, ResponseHandler, ResponseInfo},
};
use rustls::ServerConfig;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{
    net::{TcpListener, UdpSocket},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use crate::server::Server;

/// Idle time after which a client of TCP or TLS is let go.
const TCP_IDLE: Duration = Duration::from_secs(10);
/// Replies waiting on one TCP connection.
const TCP_REPLIES: usize = 64;

/// Hands queries to the server in use; a reload swaps it.
#[derive(Clone)]
pub struct Current(pub Arc<ArcSwap<Server>>);

#[async_trait]
impl RequestHandler for Current {
    async fn handle_request<R: ResponseHandler, T: Time>(
        &self,
        request: &Request,
        handle: R,
    ) -> ResponseInfo {
        let server = self.0.load_full();
        server.handle_request::<R, T>(request, handle).await
    }
}

/// The sockets of one port.
pub struct Sockets {
    current: Current,
    /// TCP.
    listener: Listener<Current>,
    /// UDP, and the word that it is to end.
    datagrams: JoinSet<()>,
    stop: CancellationToken,
    port: u16,
    /// Addresses with a UDP socket of their own.
    bound: BTreeSet<IpAddr>,
    /// Whether all local addresses are served.
    everywhere: bool,
    /// How to serve over TLS, and then over nothing else.
    tls: Option<Arc<ServerConfig>>,
}

impl Sockets {
    /// Binds UDP and TCP, or TLS alone; `addresses` empty means all. Port 0 takes a free one.
    ///
    /// # Errors
    /// When an address cannot be listened on.
    pub fn bind(
        current: Current,
        addresses: &[IpAddr],
        port: u16,
        tls: Option<Arc<ServerConfig>>,
    ) -> std::io::Result<Self> {
        let mut sockets = Self {
            listener: Listener::new(current.clone()),
            current,
            datagrams: JoinSet::new(),
            stop: CancellationToken::new(),
            port,
            bound: BTreeSet::new(),
            everywhere: addresses.is_empty(),
            tls,
        };
        if !sockets.everywhere {
            for address in addresses {
                sockets.address(*address)?;
            }
            return Ok(sockets);
        }
        sockets.address(Ipv4Addr::UNSPECIFIED.into())?;
        if let Err(error) = sockets.address(Ipv6Addr::UNSPECIFIED.into()) {
            tracing::info!(%error, "not listening on IPv6");
        }
        sockets.refresh();
        Ok(sockets)
    }

    /// The port in use.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Binds addresses that the host has got meanwhile.
    pub fn refresh(&mut self) {
        if !self.everywhere || self.tls.is_some() {
            return;
        }
        for address in local_addresses() {
            if !self.bound.contains(&address)
                && let Err(error) = self.udp(address)
            {
                tracing::warn!(%address, %error, "no socket of its own for a local address");
            }
        }
    }

    /// Answers what is under way and closes everything.
    pub async fn shutdown(mut self) {
        self.stop.cancel();
        while self.datagrams.join_next().await.is_some() {}
        if let Err(error) = self.listener.shutdown_gracefully().await {
            tracing::warn!(%error, "a listener failed");
        }
    }

    fn address(&mut self, address: IpAddr) -> std::io::Result<()> {
        if self.tls.is_none() {
            self.udp(address)?;
        }
        self.tcp(address)
    }

    fn udp(&mut self, address: IpAddr) -> std::io::Result<()> {
        let socket = socket(address, Type::DGRAM, Protocol::UDP)?;
        socket.bind(&SocketAddr::new(address, self.port).into())?;
        let socket = UdpSocket::from_std(socket.into())?;
        self.port = socket.local_addr()?.port();
        self.datagrams.spawn(udp::serve(socket, self.current.clone(), self.stop.clone()));
        self.bound.insert(address);
        Ok(())
    }

    fn tcp(&mut self, address: IpAddr) -> std::io::Result<()> {
        let socket = socket(address, Type::STREAM, Protocol::TCP)?;
        socket.bind(&SocketAddr::new(address, self.port).into())?;
        socket.listen(1024)?;
        let listener = TcpListener::from_std(socket.into())?;
        self.port = listener.local_addr()?.port();
        match &self.tls {
            Some(tls) => {
                self.listener.register_tls_listener_with_tls_config(listener, TCP_IDLE, tls.clone())?;
            }
            None => self.listener.register_listener(listener, TCP_IDLE, TCP_REPLIES),
        }
        Ok(())
    }
}

fn socket(address: IpAddr, kind: Type, protocol: Protocol) -> std::io::Result<Socket> {
    let domain = if address.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
    let socket = Socket::new(domain, kind, Some(protocol))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// Addresses of all interfaces, link-local IPv6 ones left out.
pub fn local_addresses() -> Vec<IpAddr> {
    let Ok(interfaces) = nix::ifaddrs::getifaddrs() else { return Vec::new() };
    let address = |interface: nix::ifaddrs::InterfaceAddress| -> Option<IpAddr> {
        let storage = interface.address?;
        if let Some(v4) = storage.as_sockaddr_in() {
            return Some(IpAddr::V4(v4.ip()));
        }
        let v6 = storage.as_sockaddr_in6()?.ip();
        (!v6.is_unicast_link_local()).then_some(IpAddr::V6(v6))
    };
    interfaces.filter_map(address).collect()
}
