//! Prints a value. The same text is in docs/clients.md, where a test compares them.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "it is for a terminal")]

use std::time::Duration;

use keyhatch::client::Error;
use keyhatch::client::blocking::Client;

fn main() -> Result<(), Error> {
    // The socket of `$KEYHATCH_SOCKET`, else /run/keyhatch/keyhatch.sock.
    let broker = Client::new().with_timeout(Duration::from_secs(10));
    let value = broker.text("/billing/database-url")?;
    if let Some(why) = value.stale() {
        eprintln!("not confirmed for {} s: {why}", value.age().as_secs());
    }
    println!("{}", value.as_str());
    Ok(())
}
