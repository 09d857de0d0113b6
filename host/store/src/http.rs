//! The requests of `object_store`, sent by `ureq`, which the program has anyway (`ovhost plugin pull`).
//!
//! `object_store` is asynchronous and this is not: a request blocks the thread that asks. That is what callers here want: each
//! operation runs on a runtime of its thread alone ([`crate::object::wait`]), so nobody else waits.

use std::io::Read;
use std::pin::Pin;
use std::sync::Mutex;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use http_body::{Body, Frame, SizeHint};
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpRequestBody, HttpResponse, HttpResponseBody,
    HttpService,
};
use ureq::config::AutoHeaderValue;
use ureq::tls::{RootCerts, TlsConfig};
use ureq::{Agent, BodyReader};

/// Bytes that a response hands on at once.
const CHUNK: usize = 256 << 10;
/// Most bytes of the text that comes with an error.
const ERROR_TEXT: u64 = 64 << 10;
/// Most connections that wait for the next request, of one server.
const IDLE: usize = 64;
/// A cloud's metadata service, on the same machine or not at all.
const METADATA_CONNECT: Duration = Duration::from_secs(1);

/// Makes clients that share their connections.
#[derive(Debug, Clone)]
pub struct Connector {
    agent: Agent,
    connect_timeout: Duration,
}

#[derive(Debug)]
struct Service {
    agent: Agent,
    connect_timeout: Duration,
    plain: bool,
}

impl Connector {
    /// `read_timeout`: how long a server may be silent.
    pub fn new(connect_timeout: Duration, read_timeout: Duration) -> Self {
        let tls = TlsConfig::builder().root_certs(RootCerts::PlatformVerifier).build();
        let agent = Agent::config_builder()
            .tls_config(tls)
            .http_status_as_error(false)
            .timeout_recv_response(Some(read_timeout))
            .timeout_per_read(Some(read_timeout))
            .timeout_per_write(Some(read_timeout))
            .max_idle_connections(IDLE)
            .max_idle_connections_per_host(IDLE)
            // Byte offsets are those of the file, so it must come as it is.
            .accept_encoding(AutoHeaderValue::from("identity"))
            .user_agent(concat!("ovhost/", env!("CARGO_PKG_VERSION")))
            .build()
            .new_agent();
        Connector { agent, connect_timeout }
    }
}

impl HttpConnector for Connector {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        let plain = options.get_config_value(&object_store::ClientConfigKey::AllowHttp).is_some_and(|v| v == "true");
        let Connector { agent, connect_timeout } = self.clone();
        Ok(HttpClient::new(Service { agent, connect_timeout, plain }))
    }
}

#[async_trait::async_trait]
impl HttpService for Service {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let (parts, body) = request.into_parts();
        let host = parts.uri.host().unwrap_or_default();
        let local = is_local(host);
        let connect = if host.starts_with("169.254.") { METADATA_CONNECT } else { self.connect_timeout };
        let shown =
            format!("{} {}://{}{}", parts.method, parts.uri.scheme_str().unwrap_or_default(), host, parts.uri.path());
        let takes_body = !matches!(parts.method.as_str(), "GET" | "HEAD" | "DELETE");
        let body = collect(body).await?;
        let sent = if takes_body || !body.is_empty() {
            self.send(ureq::http::Request::from_parts(parts, body), connect, local)
        } else {
            self.send(ureq::http::Request::from_parts(parts, ()), connect, local)
        };
        let response = sent.map_err(|e| {
            let e = http_error(e);
            tracing::warn!("{shown}: {e}");
            e
        })?;
        let (parts, body) = response.into_parts();
        let failed = !parts.status.is_success();
        if parts.status.is_server_error() || parts.status.as_u16() == 429 {
            tracing::warn!("{shown}: the server answered {}", parts.status);
        }
        let body = if failed {
            let mut text = Vec::new();
            // The status says enough where the text cannot be read.
            let _ = body.into_reader().take(ERROR_TEXT).read_to_end(&mut text);
            HttpResponseBody::from(String::from_utf8_lossy(&text).into_owned())
        } else {
            HttpResponseBody::new(Blocking { reader: Mutex::new(body.into_reader()), failed: None, ended: false })
        };
        Ok(HttpResponse::from_parts(parts, body))
    }
}

impl Service {
    fn send(
        &self,
        request: ureq::http::Request<impl ureq::AsSendBody>,
        connect: Duration,
        local: bool,
    ) -> Result<ureq::http::Response<ureq::Body>, ureq::Error> {
        let mut config = self.agent.configure_request(request).https_only(!self.plain).timeout_connect(Some(connect));
        if local {
            config = config.proxy(None);
        }
        self.agent.run(config.build())
    }
}

/// This machine, which no proxy is asked for.
fn is_local(host: &str) -> bool {
    let name = host.trim_start_matches('[').trim_end_matches(']');
    name == "localhost" || name.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

async fn collect(body: HttpRequestBody) -> Result<Vec<u8>, HttpError> {
    let mut bytes = Vec::with_capacity(body.content_length());
    let mut body = HttpResponseBody::new(body).bytes_stream();
    while let Some(part) = body.next().await {
        bytes.extend_from_slice(&part?);
    }
    Ok(bytes)
}

/// The kind decides whether `object_store` asks again.
fn http_error(error: ureq::Error) -> HttpError {
    use std::io::ErrorKind as Io;
    let kind = match &error {
        ureq::Error::Timeout(ureq::Timeout::Connect | ureq::Timeout::Resolve) => HttpErrorKind::Connect,
        ureq::Error::Timeout(_) => HttpErrorKind::Timeout,
        ureq::Error::HostNotFound | ureq::Error::ConnectionFailed => HttpErrorKind::Connect,
        ureq::Error::Io(e) => match e.kind() {
            Io::ConnectionRefused | Io::NotConnected | Io::AddrNotAvailable => HttpErrorKind::Connect,
            Io::HostUnreachable | Io::NetworkUnreachable | Io::NetworkDown => HttpErrorKind::Connect,
            Io::TimedOut | Io::WouldBlock => HttpErrorKind::Timeout,
            Io::ConnectionReset | Io::ConnectionAborted | Io::BrokenPipe | Io::UnexpectedEof => {
                HttpErrorKind::Interrupted
            }
            _ => HttpErrorKind::Unknown,
        },
        // An answer that is cut within its first lines.
        ureq::Error::Protocol(_) => HttpErrorKind::Interrupted,
        _ => HttpErrorKind::Unknown,
    };
    HttpError::new(kind, error)
}

/// The body of a response as `object_store` wants it. Reading blocks.
struct Blocking {
    /// The mutex only makes it shareable, as is asked for; nobody else holds it.
    reader: Mutex<BodyReader<'static>>,
    /// What came after the last good bytes.
    failed: Option<HttpError>,
    ended: bool,
}

impl Body for Blocking {
    type Data = Bytes;
    type Error = HttpError;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, HttpError>>> {
        let this = &mut *self;
        if let Some(error) = this.failed.take() {
            this.ended = true;
            return Poll::Ready(Some(Err(error)));
        }
        if this.ended {
            return Poll::Ready(None);
        }
        let reader = this.reader.get_mut().unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut chunk = Vec::with_capacity(CHUNK);
        if let Err(error) = reader.take(CHUNK as u64).read_to_end(&mut chunk) {
            let error = http_error(match error.downcast::<ureq::Error>() {
                Ok(error) => error,
                Err(error) => ureq::Error::Io(error),
            });
            if chunk.is_empty() {
                this.ended = true;
                return Poll::Ready(Some(Err(error)));
            }
            this.failed = Some(error);
        }
        this.ended = chunk.is_empty();
        Poll::Ready((!chunk.is_empty()).then(|| Ok(Frame::data(chunk.into()))))
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}
