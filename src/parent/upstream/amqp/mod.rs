//! A client of message brokers that speak AMQP 0-9-1, as far as a remote call needs one: one connection, one channel, one
//! queue for replies.
//!
//! A broker may be hostile or broken: whatever it sends ends at most its own connection.

mod connection;
#[cfg(test)]
mod fuzz;
mod handshake;
mod replies;
mod wire;

pub(super) use connection::{Call, Connection, Message};
pub(super) use handshake::Login;

use tokio::io::{AsyncRead, AsyncWrite};

/// The bytes under a connection.
pub(super) trait Transport: AsyncRead + AsyncWrite + Unpin {}

impl<T: AsyncRead + AsyncWrite + Unpin> Transport for T {}
