//! A few pages over HTTP/1.1, for a person's browser or a Prometheus: GET and HEAD, one answer on a connection, nothing
//! kept. It reads a head of at most [`MAX_HEAD`] bytes and takes no body. Not for what must be secret: there is no TLS.

use std::future::Future;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;

/// Bytes of a request at most.
pub const MAX_HEAD: usize = 4096;
/// How long a request, and the taking of its answer, may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// Requests at once; others wait with the system.
const MAX_CONNECTIONS: usize = 8;

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// The path, from its `/` on, without a query.
    pub path: String,
    /// Who asks: for limits, never for logs.
    pub from: IpAddr,
}

/// An answer.
#[derive(Clone, Debug)]
pub struct Page {
    status: &'static str,
    kind: &'static str,
    body: Arc<[u8]>,
}

impl Page {
    /// Here it is. `kind` is its media type.
    #[must_use]
    pub fn new(kind: &'static str, body: impl Into<Arc<[u8]>>) -> Self {
        Self { status: "200 OK", kind, body: body.into() }
    }

    /// There is nothing at that path; `words` say what there is.
    #[must_use]
    pub fn not_found(words: &str) -> Self {
        Self { status: "404 Not Found", kind: "text/plain; charset=utf-8", body: words.as_bytes().into() }
    }

    /// It can't be told now.
    #[must_use]
    pub fn unavailable(words: &str) -> Self {
        Self { status: "503 Service Unavailable", ..Self::not_found(words) }
    }
}

/// Answers until the listener fails, and says why it did.
pub async fn serve<A, F>(listener: &TcpListener, answer: A) -> std::io::Error
where
    A: Fn(Asked) -> F + Clone + Send + 'static,
    F: Future<Output = Page> + Send,
{
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        // Never closed.
        let Ok(permit) = Arc::clone(&permits).acquire_owned().await else { return std::io::ErrorKind::Other.into() };
        let (stream, from) = match listener.accept().await {
            Ok((stream, from)) => (stream, from.ip()),
            Err(e) => return e,
        };
        let answer = answer.clone();
        tokio::spawn(async move {
            // Whoever is too slow, or has gone, is none of ours to report to.
            let _ = timeout(PATIENCE, exchange(&stream, from, answer)).await;
            drop(permit);
        });
    }
}

async fn exchange<A, F>(stream: &TcpStream, from: IpAddr, answer: A) -> std::io::Result<()>
where
    A: Fn(Asked) -> F,
    F: Future<Output = Page>,
{
    let head = read_head(stream).await?;
    let line = head.split_once("\r\n").map_or(head.as_str(), |(line, _)| line);
    let (page, body) = match line.split(' ').collect::<Vec<_>>()[..] {
        [method @ ("GET" | "HEAD"), target, ..] => {
            let path = target.split_once('?').map_or(target, |(path, _)| path).to_owned();
            (answer(Asked { path, from }).await, method == "GET")
        }
        _ => (Page { status: "405 Method Not Allowed", ..Page::not_found("GET, please\n") }, true),
    };
    let (status, kind, length) = (page.status, page.kind, page.body.len());
    // Pages have their style in them and nothing from anywhere else, and run nothing.
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\nConnection: close\r\n\
         Cache-Control: no-cache\r\nX-Content-Type-Options: nosniff\r\nReferrer-Policy: no-referrer\r\n\
         Content-Security-Policy: default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'\r\n\r\n"
    );
    write_all(stream, head.as_bytes()).await?;
    if body { write_all(stream, &page.body).await } else { Ok(()) }
}

/// What comes before the empty line.
async fn read_head(stream: &TcpStream) -> std::io::Result<String> {
    let mut head = Vec::new();
    let mut buffer = [0; MAX_HEAD];
    while !head.windows(4).any(|four| four == b"\r\n\r\n") {
        stream.readable().await?;
        match stream.try_read(&mut buffer) {
            Ok(0) => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            Ok(n) => head.extend_from_slice(buffer.get(..n).unwrap_or_default()),
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(e) => return Err(e),
        }
        if head.len() > MAX_HEAD {
            return Err(std::io::ErrorKind::InvalidData.into());
        }
    }
    String::from_utf8(head).map_err(|_| std::io::ErrorKind::InvalidData.into())
}

async fn write_all(stream: &TcpStream, mut bytes: &[u8]) -> std::io::Result<()> {
    while !bytes.is_empty() {
        stream.writable().await?;
        match stream.try_write(bytes) {
            Ok(n) => bytes = bytes.get(n..).unwrap_or_default(),
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// Text for the inside of an element or of a quoted attribute.
#[must_use]
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    async fn ask(request: &'static str) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let answers = tokio::spawn(async move {
            let answer = |asked: Asked| async move {
                match asked.path.as_str() {
                    "/here" => Page::new("text/plain", b"it is".as_slice()),
                    _ => Page::not_found("only /here\n"),
                }
            };
            serve(&listener, answer).await
        });
        let asked = tokio::task::spawn_blocking(move || {
            let mut stream = std::net::TcpStream::connect(address).unwrap();
            stream.write_all(request.as_bytes()).unwrap();
            let mut answer = String::new();
            // Refused in the middle of a request counts as no answer.
            let _ = stream.read_to_string(&mut answer);
            answer
        });
        let answer = asked.await.unwrap();
        answers.abort();
        answer
    }

    #[tokio::test]
    async fn what_is_there_is_told_and_nothing_else() {
        let here = ask("GET /here?x=1 HTTP/1.1\r\nHost: a\r\n\r\n").await;
        assert!(here.starts_with("HTTP/1.1 200 OK\r\n") && here.ends_with("\r\n\r\nit is"), "{here}");
        assert!(here.contains("default-src 'none'"), "nothing on a page may run: {here}");
        let head = ask("HEAD /here HTTP/1.1\r\n\r\n").await;
        assert!(head.contains("Content-Length: 5\r\n") && head.ends_with("\r\n\r\n"), "{head}");
        assert!(ask("GET /there HTTP/1.1\r\n\r\n").await.starts_with("HTTP/1.1 404"));
        assert!(ask("POST /here HTTP/1.1\r\n\r\n").await.starts_with("HTTP/1.1 405"));
        assert!(ask("nonsense\r\n\r\n").await.starts_with("HTTP/1.1 405"));
    }

    #[tokio::test]
    async fn a_head_without_end_is_cut_off() {
        let long: &'static str =
            Box::leak(format!("GET /here HTTP/1.1\r\nX: {}", "y".repeat(MAX_HEAD)).into_boxed_str());
        assert_eq!(ask(long).await, "");
    }

    #[test]
    fn text_stays_text() {
        assert_eq!(escape("<a href='x'>&\"</a>"), "&lt;a href=&#39;x&#39;&gt;&amp;&quot;&lt;/a&gt;");
    }
}
