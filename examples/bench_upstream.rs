//! The upstream of `make bench`: answers every request with the same few bytes, cheaply enough never to
//! be what is measured. It reads no body and checks nothing; it is no server for anything else.
//!
//! Prints its address on the first line of standard output.

use std::io::Write;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 3\r\n\r\nok\n";
const END: &[u8] = b"\r\n\r\n";

#[tokio::main(flavor = "current_thread")]
async fn main() -> std::io::Result<()> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let mut out = std::io::stdout();
    writeln!(out, "{}", listener.local_addr()?)?;
    out.flush()?;
    loop {
        let (stream, _) = listener.accept().await?;
        // A connection that breaks is the gateway's business.
        tokio::spawn(async move { answer(stream).await.unwrap_or_default() });
    }
}

async fn answer(mut stream: TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = Vec::with_capacity(16 * 1024);
    loop {
        if stream.read_buf(&mut buffer).await? == 0 {
            return Ok(());
        }
        // The gateway sends one request at a time, so its end is the end of what was read.
        if buffer.ends_with(END) {
            buffer.clear();
            stream.write_all(ANSWER).await?;
        }
    }
}
