//! A call of a service and the message broker that it goes by, as the configuration has them.

use std::path::PathBuf;

use super::TokenName;
use crate::arguments::Carried;

/// What one method of a Nameko service gives for one set of arguments.
#[derive(Debug, Clone, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct NamekoDocument {
    pub broker: Broker,
    pub user: String,
    /// The user's password.
    pub token: TokenName,
    pub ca_file: Option<PathBuf>,
    /// Where services bind their queues; a topic exchange.
    pub exchange: String,
    /// `service.method`.
    pub routing_key: String,
    /// SHA-256 of the arguments, as hex digits: they themselves come with each request, and are kept nowhere.
    pub arguments: String,
    /// The arguments, on the way from who asks to the service. No part of what the document is.
    #[serde(skip)]
    pub carried: Carried,
}

/// A virtual host of a RabbitMQ server.
#[derive(Debug, Clone, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct Broker {
    pub tls: bool,
    /// As in a URL.
    pub host: String,
    pub port: u16,
    pub vhost: String,
}

impl Broker {
    /// `amqp://host:port/vhost`, as the log has it.
    pub fn origin(&self) -> String {
        let vhost = self.vhost.replace('%', "%25").replace('/', "%2F");
        format!("{}://{}:{}/{vhost}", if self.tls { "amqps" } else { "amqp" }, self.host, self.port)
    }
}
