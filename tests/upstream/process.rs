//! The upstream of the tests: a process of its own that behaves, by the path it is asked, as upstreams do on bad days.
//!
//! `upstream --ca FILE --token TOKEN [--port PORT]` prints its ports as one line of JSON, then serves until it is ended.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "part of the tests, which may panic")]

mod answer;
mod behave;
mod hawk;
mod proxy;
mod session;
mod sigv4;
mod state;
mod stores;
mod tls;

use std::collections::HashMap;
use std::io;
use std::rc::Rc;

use hyper::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use state::{Connection, State};

fn main() {
    let mut arguments = std::env::args().skip(1);
    let (mut ca, mut token, mut port) = (None, String::new(), 0);
    while let Some(name) = arguments.next() {
        let value = arguments.next().unwrap_or_else(|| panic!("{name} needs a value"));
        match name.as_str() {
            "--ca" => ca = Some(value),
            "--token" => token = value,
            "--port" => port = value.parse().unwrap(),
            _ => panic!("unknown argument {name}"),
        }
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, async move {
        let mut plain = Vec::new();
        for wanted in [port, 0, 0, 0] {
            plain.push(TcpListener::bind(("127.0.0.1", wanted)).await.unwrap());
        }
        let ports: Vec<u16> = plain.iter().map(|listener| listener.local_addr().unwrap().port()).collect();
        let authority = tls::Authority::new();
        if let Some(path) = ca {
            std::fs::write(path, authority.pem()).unwrap();
        }
        let state = Rc::new(State::new(token, ports[1]));
        let tls = Rc::new(authority.servers());
        for (listener, name) in plain.into_iter().zip(NAMES) {
            tokio::task::spawn_local(accept(listener, name, tls.clone(), state.clone()));
        }
        let told: serde_json::Map<_, _> =
            NAMES.iter().map(|name| name.to_string()).zip(ports.iter().map(|&p| p.into())).collect();
        println!("{}", serde_json::Value::from(told));
        std::future::pending::<()>().await;
    });
}

/// The listeners: `other` is the same upstream as another origin.
const NAMES: [&str; 4] = ["plain", "other", "proxy", "tls"];

async fn accept(
    listener: TcpListener,
    name: &'static str,
    tls: Rc<HashMap<&'static str, TlsAcceptor>>,
    state: Rc<State>,
) {
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let connection = Rc::new(Connection::new(name, &stream));
        state.count_connection(name);
        let acceptor = (name == "tls").then(|| tls[state.certificate.borrow().as_str()].clone());
        let state = state.clone();
        tokio::task::spawn_local(async move {
            match acceptor {
                None => serve(stream, connection, state).await,
                // A client that refuses the certificate is what some tests want.
                Some(acceptor) => {
                    if let Ok(stream) = acceptor.accept(stream).await {
                        serve(stream, connection, state).await;
                    }
                }
            }
        });
    }
}

async fn serve(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    connection: Rc<Connection>,
    state: Rc<State>,
) {
    let service = service_fn(move |request: Request<Incoming>| {
        let (connection, state) = (connection.clone(), state.clone());
        async move {
            let answer = behave::answer(&state, &connection, request).await;
            let ended = answer.extensions().get::<answer::NoAnswer>().is_some();
            if ended { Err(io::Error::other("as a crash does")) } else { Ok(answer) }
        }
    });
    // A connection that ends badly is the client's affair, or the test's intention.
    let _ = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades()
        .await;
}

/// Connects as a proxy does.
async fn connect(to: &str) -> io::Result<TcpStream> {
    TcpStream::connect(to).await
}
