//! Header sections of HTTP/2 obey what those of HTTP/1.1 obey, and connections end in good order.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::*;
use crate::support::keys::Key;

/// `GET target` over HTTP/1.1 with these fields.
async fn http1(gateway: &Gateway, target: &str, fields: &[(&str, String)]) -> (u16, String) {
    let fields: String = fields.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let answer = gateway.get(target, &fields).await;
    (status(&answer), crate::support::body_of(&answer).to_owned())
}

async fn http2(gateway: &Gateway, target: &str, fields: &[(&'static str, String)]) -> (u16, String) {
    let mut request = get(target);
    for (name, value) in fields {
        request = request.header(*name, value);
    }
    let (code, text) = ask(&clear(gateway).await, request.body(()).unwrap()).await;
    (code.as_u16(), text)
}

#[tokio::test(flavor = "multi_thread")]
async fn size_and_number_of_fields_are_those_of_http1() {
    let upstream = Upstream::start().await;
    let gateway = Gateway::start_with("max_header_bytes = 4096", &routes(upstream.address)).await;
    let many = |count: usize| vec![("x-a", "b".to_owned()); count];
    let refused = [
        vec![("x-large", "a".repeat(5000))],
        // What the HTTP/2 library would let pass: each field small, all of them too much.
        vec![("x-a", "a".repeat(100)); 40],
        many(130),
    ];
    for (number, fields) in refused.iter().enumerate() {
        let told = http2(&gateway, "/page", fields).await;
        assert_eq!(told.0, 431, "{number}: {}", told.1);
        assert!(told.1.contains("\"header_too_large\""), "{number}: {}", told.1);
        assert_eq!(told, http1(&gateway, "/page", fields).await, "{number}");
    }
    assert_eq!(upstream.requests(), [""; 0]);
    for fields in [vec![("x-large", "a".repeat(3900))], many(120)] {
        assert_eq!(http2(&gateway, "/page", &fields).await.0, 200);
        assert_eq!(http1(&gateway, "/page", &fields).await.0, 200);
    }
    crate::support::neighbours::until_metrics_say(&gateway, "decision=\"header_too_large\"").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_ways_to_say_how_long_a_body_is_are_refused() {
    let upstream = Upstream::start().await;
    let gateway = Gateway::start(&routes(upstream.address)).await;
    // `content-length: 0` twice, which the HTTP/2 library takes for one.
    let length = b"\x0f\x0d\x010";
    let mut stream = TcpStream::connect(gateway.address()).await.unwrap();
    let headers = frame(1, 5, 1, &[POST, length, length].concat());
    stream.write_all(&[PREFACE, &headers].concat()).await.unwrap();
    read_until(&mut stream, "\"framing_ambiguous\"").await;
    assert_eq!(upstream.requests(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_matched_of_a_path_with_a_fragment_is_what_is_forwarded() {
    let upstream = Upstream::start().await;
    let gateway = Gateway::start(&routes(upstream.address)).await;
    for (path, want) in [("/page#/../admin", "GET /page HTTP/1.1"), ("/page?x#y", "GET /page?x HTTP/1.1")] {
        let mut stream = TcpStream::connect(gateway.address()).await.unwrap();
        let length = u8::try_from(path.len()).unwrap();
        let block = [b"\x82\x86\x04", &[length][..], path.as_bytes(), b"\x01\x08app.test"].concat();
        stream.write_all(&[PREFACE, &frame(1, 5, 1, &block)].concat()).await.unwrap();
        read_until(&mut stream, want).await;
        assert_eq!(upstream.requests().pop().unwrap().lines().next(), Some(want));
        assert_eq!(http1(&gateway, path, &[]).await.0, 400);
    }
    assert_eq!(upstream.requests().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn cookies_in_fields_of_their_own_reach_http1_as_one_field() {
    let upstream = Upstream::start().await;
    let closed = format!(
        "[[routes]]\nname = \"cookie\"\nmatch = {{ path = \"/cookie\" }}\nupstream = [\"http://{}\"]\nauth = \"required\"\n\
         token = {{ cookie = \"at\" }}\n",
        upstream.address
    );
    let gateway = Gateway::start(&format!("{}{closed}", routes(upstream.address))).await;
    let token = mint(&gateway, "alice").await;
    let crumbs =
        |crumbs: &[&str]| -> Vec<_> { crumbs.iter().map(|crumb| ("cookie", (*crumb).to_owned())).collect() };
    let cookies = |head: &str| -> Vec<String> {
        let lines = head.lines().filter_map(|line| line.split_once(": "));
        lines
            .filter(|(name, _)| name.eq_ignore_ascii_case("cookie"))
            .map(|(_, value)| value.to_owned())
            .collect()
    };
    let ours = format!("at={token}");
    for (target, fields, want) in [
        ("/page", crumbs(&["session=1", "theme=dark", "lang=de"]), "session=1; theme=dark; lang=de"),
        ("/page", crumbs(&["session=1; theme=dark", "lang=de"]), "session=1; theme=dark; lang=de"),
        ("/cookie", crumbs(&["session=1", &ours, "lang=de"]), "session=1; lang=de"),
        ("/cookie", crumbs(&[&ours, "session=1"]), "session=1"),
    ] {
        for answer in [http2(&gateway, target, &fields).await, http1(&gateway, target, &fields).await] {
            assert_eq!(answer.0, 200, "{target}: {}", answer.1);
            assert_eq!(cookies(&upstream.requests().pop().unwrap()), [want]);
        }
    }
    // Two tokens are one too many, in whatever fields.
    let twice = crumbs(&[&ours, "session=1", &ours]);
    assert_eq!(http2(&gateway, "/cookie", &twice).await.0, 400);
    assert_eq!(http1(&gateway, "/cookie", &twice).await.0, 400);
    // Browsers send a field for each cookie, and may have more cookies than a request may have fields.
    let many: Vec<_> = (0..150).map(|number| ("cookie", format!("c{number}=v"))).collect();
    assert_eq!(http2(&gateway, "/page", &many).await.0, 200);
    let seen = cookies(&upstream.requests().pop().unwrap());
    assert_eq!((seen.len(), seen[0].matches("; ").count()), (1, 149));
}

/// The next frame: its type, stream and payload; `None` when the other end has closed.
async fn read_frame(stream: &mut TcpStream) -> Option<(u8, u32, Vec<u8>)> {
    let mut head = [0; 9];
    timeout(PATIENCE, stream.read_exact(&mut head)).await.expect("no frame").ok()?;
    let [a, b, c, kind, _, stream_id @ ..] = head;
    let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
    timeout(PATIENCE, stream.read_exact(&mut payload)).await.expect("half a frame").ok()?;
    Some((kind, u32::from_be_bytes(stream_id), payload))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_connection_is_told_which_requests_were_taken_before_it_is_closed() {
    let upstream = Upstream::start().await;
    let gateway = Gateway::start_with("idle_timeout = \"1s\"", &routes(upstream.address)).await;
    for polite in [true, false] {
        let mut stream = TcpStream::connect(gateway.address()).await.unwrap();
        stream.write_all(&[PREFACE, &frame(1, 5, 1, POST)].concat()).await.unwrap();
        let mut last = None;
        while let Some((kind, _, payload)) = read_frame(&mut stream).await {
            match kind {
                // A client that answers PING is told exactly; one that is gone already does not delay the shutdown.
                6 if polite => stream.write_all(&frame(6, 1, 0, &payload)).await.unwrap(),
                7 => last = Some(payload),
                _ => {}
            }
        }
        let last = last.expect("closed without GOAWAY");
        assert_eq!(&last[4..8], [0; 4], "not NO_ERROR");
        let told = u32::from_be_bytes([last[0], last[1], last[2], last[3]]);
        assert_eq!(told, if polite { 1 } else { u32::MAX >> 1 });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_of_malformed_requests_is_ended_after_what_is_under_way_on_it() {
    let (asked, mut seen) = mpsc::unbounded_channel();
    let go = Arc::new(tokio::sync::Notify::new());
    let told = Arc::clone(&go);
    let upstream = Scripted::start(move |mut stream| {
        let (asked, told) = (asked.clone(), Arc::clone(&told));
        async move {
            read_head(&mut stream).await;
            let _ = asked.send(());
            told.notified().await;
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nfinished").await;
            let _ = stream.read_u8().await;
        }
    })
    .await;
    let gateway = Gateway::start(&routes(upstream.address)).await;
    let mut stream = TcpStream::connect(gateway.address()).await.unwrap();
    stream.write_all(&[PREFACE, &frame(1, 5, 1, POST)].concat()).await.unwrap();
    timeout(PATIENCE, seen.recv()).await.unwrap();
    // A Host that contradicts the authority.
    let malformed = [POST, b"\x0f\x17\x06b.test"].concat();
    for number in 1..40 {
        stream.write_all(&frame(1, 5, 1 + 2 * number, &malformed)).await.unwrap();
    }
    let (mut told_to_leave, mut finished) = (false, false);
    while let Some((kind, id, payload)) = read_frame(&mut stream).await {
        match (kind, id) {
            (6, _) => stream.write_all(&frame(6, 1, 0, &payload)).await.unwrap(),
            (7, _) if !told_to_leave => {
                told_to_leave = true;
                go.notify_one();
            }
            (0, 1) => finished |= payload == b"finished",
            _ => {}
        }
    }
    assert!(told_to_leave && finished, "{told_to_leave} {finished}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_request_that_is_refused_or_fails_ends_in_good_order() {
    let gateway = Gateway::start(&routes(palisade_testing::nowhere::nowhere())).await;
    let mut client = clear(&gateway).await;
    for (target, want) in [("/admin", 401), ("/page", 502)] {
        let request =
            Request::head(format!("http://app.test{target}")).version(Version::HTTP_2).body(()).unwrap();
        client = timeout(PATIENCE, client.ready()).await.unwrap().unwrap();
        let (response, _) = client.send_request(request, true).unwrap();
        let mut response = timeout(PATIENCE, response).await.unwrap().unwrap();
        assert_eq!(response.status(), want);
        let end = timeout(PATIENCE, response.body_mut().data()).await.unwrap();
        assert!(!matches!(end, Some(Err(_))), "{target}: {end:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn white_space_around_a_value_carries_no_token_past_the_gateway() {
    let upstream = Upstream::start().await;
    let optional = format!(
        "[[routes]]\nname = \"all\"\nmatch = {{ path = \"/\" }}\nupstream = [\"http://{}\"]\nauth = \"optional\"\n",
        upstream.address
    );
    let gateway = Gateway::start(&optional).await;
    let token = mint(&gateway, "alice").await;
    revoke(&gateway, &token).await;
    for value in [format!(" Bearer {token}"), format!("\tBearer {token}"), format!("Bearer {token} ")] {
        let fields = [("authorization", value.clone())];
        let (code, text) = http2(&gateway, "/page", &fields).await;
        assert_eq!(code, 400, "{value:?}: {text}");
        assert!(text.contains("\"header_malformed\""), "{text}");
        // There the white space is no part of the value.
        assert_eq!(http1(&gateway, "/page", &fields).await.0, 401);
    }
    assert_eq!(upstream.requests(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_navigation_is_sent_to_sign_in_as_over_http1() {
    let upstream = Upstream::start().await;
    let routes = "[[routes]]\nname = \"app\"\nmatch = { host = \"app.localhost\", path = \"/\" }\nauth = \"required\"\n";
    let gateway = Gateway::start(&format!("{routes}upstream = [\"http://{}\"]\n", upstream.address)).await;
    let client = clear(&gateway).await;
    for method in ["GET", "HEAD"] {
        let request = Request::builder().uri("http://app.localhost/x%20y?z=%2F").method(method);
        let request = request.header("sec-fetch-mode", "navigate").header("sec-fetch-dest", "document");
        let mut client = timeout(PATIENCE, client.clone().ready()).await.unwrap().unwrap();
        let (response, _) = client.send_request(request.body(()).unwrap(), true).unwrap();
        let response = timeout(PATIENCE, response).await.unwrap().unwrap();
        assert_eq!(response.status(), 303, "{method}");
        let location = response.headers()["location"].to_str().unwrap();
        let target = "http%3A%2F%2Fapp.localhost%2Fx%2520y%3Fz%3D%252F";
        let page = "http://localhost:8080/auth/pages/sign-in?return_to=";
        assert!(location.starts_with(&format!("{page}{target}")), "{location}");
    }
    let (code, text) = ask(&client, Request::get("http://app.localhost/x").body(()).unwrap()).await;
    assert!(code == 401 && text.contains("\"sign_in\""), "{text}");
    assert_eq!(upstream.requests(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_longest_token_passes_beside_the_usual_fields() {
    let upstream = Upstream::start().await;
    let gateway = Gateway::start(&routes(upstream.address)).await;
    let minted = mint(&gateway, "bob").await;
    let claims = URL_SAFE_NO_PAD.decode(minted.split('.').nth(1).unwrap()).unwrap();
    let own = Key::of_gateway(&gateway.folder.path().join("data"));
    let claims = serde_json::from_slice(&claims).unwrap();
    for (length, want) in [(24 * 1024, 200), (24 * 1024 + 4, 401)] {
        let token = own.of_length(length, serde_json::json!({"typ": "at+jwt"}), &claims);
        let fields = [
            ("authorization", format!("Bearer {token}")),
            ("cookie", format!("app={}", "c".repeat(4096))),
            ("user-agent", "u".repeat(2048)),
        ];
        assert_eq!(http2(&gateway, "/admin", &fields).await.0, want, "{length}");
        assert_eq!(http1(&gateway, "/admin", &fields).await.0, want, "{length}");
    }
}
