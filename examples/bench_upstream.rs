//! The upstream of `make bench`: answers every request with the same few bytes, cheaply enough never to
//! be what is measured. It reads no body and checks nothing; it is no server for anything else.
//!
//! `benches/run` builds it alone, so it uses nothing but the standard library. Prints its address.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 3\r\n\r\nok\n";
const END: &[u8] = b"\r\n\r\n";

fn main() -> io::Result<()> {
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    let mut out = io::stdout();
    writeln!(out, "{}", listener.local_addr()?)?;
    out.flush()?;
    for stream in listener.incoming() {
        let stream = stream?;
        // A connection that breaks is the gateway's business.
        thread::spawn(move || answer(stream).unwrap_or_default());
    }
    Ok(())
}

fn answer(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = [0; 16 * 1024];
    let mut held = 0;
    while held < buffer.len() {
        match stream.read(&mut buffer[held..])? {
            0 => break,
            read => held += read,
        }
        // The gateway sends one request at a time, so its end is the end of what was read.
        if buffer[..held].ends_with(END) {
            held = 0;
            stream.write_all(ANSWER)?;
        }
    }
    Ok(())
}
