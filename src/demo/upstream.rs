//! A stand-in for Heroku's config-vars API on loopback: enough of HTTP for the demonstration.

use std::io::{self, BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};

/// Prints its port, then serves until it is ended. Port 0 takes any.
pub fn serve(port: u16) -> io::Result<()> {
    let listener = TcpListener::bind(("127.0.0.1", port))?;
    let mut out = io::stdout().lock();
    writeln!(out, "{}", listener.local_addr()?.port())?;
    out.flush()?;
    for stream in listener.incoming() {
        // One client that fails is nobody else's failure.
        let _ = answer(stream?);
    }
    Ok(())
}

fn answer(mut stream: TcpStream) -> io::Result<()> {
    let head = BufReader::new(&stream).lines().collect_until_empty()?;
    let shown = head.iter().any(|line| line.eq_ignore_ascii_case("authorization: Bearer demo-token"));
    let (status, body) = match (shown, head.first().map(String::as_str)) {
        (false, _) => ("401 Unauthorized", r#"{"id":"unauthorized"}"#),
        (true, Some("GET /apps/billing/config-vars HTTP/1.1")) => {
            ("200 OK", r#"{"DATABASE_URL":"postgres://billing:s3cr3t@db.example/billing"}"#)
        }
        (true, Some("GET /apps/shop/config-vars HTTP/1.1")) => ("200 OK", r#"{"STRIPE_KEY":"sk_demo"}"#),
        (true, _) => ("404 Not Found", r#"{"id":"not_found"}"#),
    };
    let length = body.len();
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
    )
}

trait CollectUntilEmpty {
    fn collect_until_empty(self) -> io::Result<Vec<String>>;
}

impl<B: BufRead> CollectUntilEmpty for io::Lines<B> {
    fn collect_until_empty(self) -> io::Result<Vec<String>> {
        self.take(100).take_while(|line| line.as_ref().map_or(true, |line| !line.is_empty())).collect()
    }
}
