//! E-mail about runs, against a small SMTP server.

use std::{path::Path, sync::Arc};

use base64::{Engine, prelude::BASE64_STANDARD};
use finetuner_server::{Encryption, Mail, Server, Settings};
use reqwest::StatusCode;
use tokio::{
    io::{AsyncBufRead, AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufStream},
    net::{TcpListener, TcpStream},
    sync::mpsc,
};
use tokio_rustls::{TlsAcceptor, rustls};

use crate::{
    logins::sign_in,
    support::{Backend, Http, finished_run, start_with},
};

/// Lines that an SMTP server received: commands, and the message.
type Session = Vec<String>;

/// An SMTP server. With a certificate it offers STARTTLS, and then AUTH.
struct SmtpServer {
    port: u16,
    sessions: mpsc::UnboundedReceiver<Session>,
}

impl SmtpServer {
    /// Starts a server that refuses recipients containing `refused`.
    async fn start(tls: Option<TlsAcceptor>, refused: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (sender, sessions) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (tls, sender) = (tls.clone(), sender.clone());
                tokio::spawn(async move {
                    let mut said = Session::new();
                    talk(stream, tls, refused, &mut said).await;
                    let _ = sender.send(said);
                });
            }
        });
        Self { port, sessions }
    }

    /// Waits for the next session with a message.
    async fn mail(&mut self) -> Session {
        loop {
            let session = self.sessions.recv().await.unwrap();
            if session.iter().any(|line| line == "DATA") {
                return session;
            }
        }
    }
}

async fn talk(
    stream: TcpStream,
    tls: Option<TlsAcceptor>,
    refused: &str,
    said: &mut Session,
) -> Option<()> {
    let mut stream = BufStream::new(stream);
    stream.write_all(b"220 test\r\n").await.ok()?;
    stream.flush().await.ok()?;
    let offer = if tls.is_some() {
        "STARTTLS"
    } else {
        "8BITMIME"
    };
    if dialogue(&mut stream, offer, refused, said).await? {
        let stream = tls?.accept(stream.into_inner()).await.ok()?;
        let mut stream = BufStream::new(stream);
        dialogue(&mut stream, "AUTH PLAIN LOGIN", refused, said).await?;
    }
    Some(())
}

/// Answers commands. Returns whether the connection continues with TLS.
async fn dialogue<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut BufStream<S>,
    offer: &str,
    refused: &str,
    said: &mut Session,
) -> Option<bool> {
    loop {
        let line = line(stream).await?;
        let answer = match line.split(' ').next()? {
            "EHLO" => format!("250-test\r\n250 {offer}"),
            "RCPT" if !refused.is_empty() && line.contains(refused) => "550 no such user".into(),
            "DATA" => "354 go on".into(),
            "QUIT" => "221 bye".into(),
            "AUTH" => "235 welcome".into(),
            _ => "250 ok".to_owned(),
        };
        stream
            .write_all(format!("{answer}\r\n").as_bytes())
            .await
            .ok()?;
        stream.flush().await.ok()?;
        said.push(line.clone());
        match line.as_str() {
            "STARTTLS" => return Some(true),
            "QUIT" => return Some(false),
            "DATA" => {
                loop {
                    let line = self::line(stream).await?;
                    if line == "." {
                        break;
                    }
                    said.push(line);
                }
                stream.write_all(b"250 taken\r\n").await.ok()?;
                stream.flush().await.ok()?;
            }
            _ => {}
        }
    }
}

async fn line(stream: &mut (impl AsyncBufRead + Unpin)) -> Option<String> {
    let mut line = String::new();
    match stream.read_line(&mut line).await {
        Ok(1..) => Some(line.trim_end_matches(['\r', '\n']).to_owned()),
        _ => None,
    }
}

fn settings(port: u16) -> Mail {
    Mail {
        host: Some("localhost".to_owned()),
        port: Some(port),
        encryption: Encryption::None,
        from: Some("Finetuner <ft@example.org>".to_owned()),
        ..Mail::default()
    }
}

async fn backend(mail: Mail) -> Backend {
    start_with(Settings {
        mail,
        public_url: Some("https://ft.example".to_owned()),
        ..Settings::default()
    })
    .await
}

/// A browser with a signed-in user.
struct Browser {
    http: Http,
    cookie: String,
}

impl Browser {
    async fn of(backend: &Backend) -> Self {
        Self {
            http: backend.http.with_token(None),
            cookie: sign_in(backend).await,
        }
    }

    async fn page(&self) -> String {
        let page = self
            .http
            .get("/console/mail")
            .header("cookie", &self.cookie);
        page.send().await.unwrap().text().await.unwrap()
    }

    async fn send(&self, path: &str, form: &[(&str, &str)]) -> (StatusCode, String) {
        let request = self.http.post(path).header("cookie", &self.cookie);
        let request = request.header("sec-fetch-site", "same-origin").form(form);
        let answer = request.send().await.unwrap();
        (answer.status(), answer.text().await.unwrap())
    }

    async fn enter_address(&self, address: &str) {
        let form = [("address", address), ("event", "run.finished")];
        let (status, page) = self.send("/console/mail", &form).await;
        assert_eq!(status, StatusCode::SEE_OTHER, "{page}");
    }

    /// Waits until the page contains `text`, and returns it.
    async fn page_with(&self, text: &str) -> String {
        loop {
            let page = self.page().await;
            if page.contains(text) {
                return page;
            }
            tokio::task::yield_now().await;
        }
    }
}

/// Returns the confirmation code of a message.
fn code(session: &Session) -> &str {
    let is_code = |line: &&String| line.len() == 24 && line.chars().all(|c| c.is_ascii_hexdigit());
    session.iter().find(is_code).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn mail_is_sent_only_to_a_confirmed_address() {
    let mut smtp = SmtpServer::start(None, "").await;
    let backend = backend(settings(smtp.port)).await;
    let browser = Browser::of(&backend).await;
    browser.enter_address("ada@example.org").await;
    let sent = smtp.mail().await;
    assert!(
        sent.contains(&"RCPT TO:<ada@example.org>".to_owned()),
        "{sent:?}"
    );
    let (status, _) = browser
        .send("/console/mail/confirm", &[("code", "0000")])
        .await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
    let entered = format!(" {} ", code(&sent));
    let (status, _) = browser
        .send("/console/mail/confirm", &[("code", &entered)])
        .await;
    assert_eq!(status, StatusCode::SEE_OTHER);
    finished_run(&backend.finetuner, "r").await;
    let sent = smtp.mail().await;
    for line in [
        "MAIL FROM:<ft@example.org>",
        "Subject: Run default/r has finished",
        "Auto-Submitted: auto-generated",
        "https://ft.example/console/experiments/default/runs/r",
    ] {
        assert!(
            sent.iter().any(|said| said.starts_with(line)),
            "{line}: {sent:?}"
        );
    }
    browser.page_with("accepted: 250").await;
    // No mail is sent after it is switched off.
    browser.send("/console/mail/off", &[]).await;
    assert!(browser.page().await.contains("E-mail is off."));
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_of_the_smtp_server_are_shown() {
    let smtp = SmtpServer::start(None, "nobody").await;
    let refused = backend(settings(smtp.port)).await;
    let browser = Browser::of(&refused).await;
    browser.enter_address("nobody@example.org").await;
    let page = browser.page_with("no such user").await;
    assert!(page.contains("class=\"status failed\""), "{page}");
    for bad in ["ada", "ada@example.org\r\nBcc: eve@example.org"] {
        let form = [("address", bad), ("event", "run.finished")];
        let (status, _) = browser.send("/console/mail", &form).await;
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{bad:?}");
    }
    // If STARTTLS is required, a server without it gets no mail.
    let mut smtp = SmtpServer::start(None, "").await;
    let unencrypted = backend(Mail {
        encryption: Encryption::StartTls,
        ..settings(smtp.port)
    })
    .await;
    let browser = Browser::of(&unencrypted).await;
    browser.enter_address("ada@example.org").await;
    let said = smtp.sessions.recv().await.unwrap();
    assert!(
        said.iter().all(|line| !line.starts_with("MAIL")),
        "{said:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn mail_is_sent_with_tls_and_a_password() {
    let folder = tempfile::tempdir().unwrap();
    let (tls, ca) = certificate(folder.path());
    let password = folder.path().join("password");
    std::fs::write(&password, "se cret\n").unwrap();
    let mut smtp = SmtpServer::start(Some(tls), "").await;
    let mail = Mail {
        encryption: Encryption::StartTls,
        user: Some("ft".to_owned()),
        password_file: Some(password),
        ca: Some(ca),
        ..settings(smtp.port)
    };
    let trusting = backend(mail.clone()).await;
    Browser::of(&trusting)
        .await
        .enter_address("ada@example.org")
        .await;
    let sent = smtp.mail().await;
    let plain = BASE64_STANDARD.encode("\0ft\0se cret");
    assert!(sent.contains(&format!("AUTH PLAIN {plain}")), "{sent:?}");
    // The certificate is not trusted.
    let doubting = backend(Mail { ca: None, ..mail }).await;
    let browser = Browser::of(&doubting).await;
    browser.enter_address("ada@example.org").await;
    let said = smtp.sessions.recv().await.unwrap();
    assert_eq!(said.last().unwrap(), "STARTTLS", "nothing follows");
    assert!(!browser.page().await.contains("se cret"));
}

/// Returns a certificate for localhost, and its file for clients to trust.
fn certificate(folder: &Path) -> (TlsAcceptor, std::path::PathBuf) {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let file = folder.join("ca.pem");
    std::fs::write(&file, made.cert.pem()).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key.unwrap())
        .unwrap();
    (TlsAcceptor::from(Arc::new(config)), file)
}

#[tokio::test]
async fn incomplete_mail_settings_prevent_the_start() {
    let mail = Mail {
        host: None,
        ..settings(25)
    };
    let server = Server::embedded().settings(Settings {
        mail,
        ..Settings::default()
    });
    let error = server.start().await.err().unwrap().to_string();
    assert!(error.contains("`mail.host`: it is missing"), "{error}");
}

#[tokio::test]
async fn the_page_says_if_mail_is_not_configured() {
    let backend = start_with(Settings::default()).await;
    let browser = Browser::of(&backend).await;
    assert!(browser.page().await.contains("has not set up e-mail"));
    let form = [("address", "ada@example.org"), ("event", "run.finished")];
    let (status, _) = browser.send("/console/mail", &form).await;
    assert_eq!(status, StatusCode::CONFLICT);
}
