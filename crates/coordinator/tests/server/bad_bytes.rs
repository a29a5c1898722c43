//! Bytes that are no good request, on every procedure: what each kind of nonsense is answered, and that nobody else
//! notices. Procedures and their messages are read from the compiled protocol, so that none is forgotten.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use fleet_identity::Role;
use http_body::{Body as _, Frame};
use prost::Message;
use prost::encoding::encode_varint;
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, FileDescriptorSet, MethodDescriptorProto};
use tonic::body::Body;
use tonic::codegen::http;
use tonic::transport::Channel;
use tonic::{Code, Status};
use tower::ServiceExt;

use crate::running::{Running, client, list_runs, within};

/// Memory that all of it together may cost, over that of an idle coordinator.
const MAX_GROWTH_KIB: u64 = 32 << 10;
/// Entries of a list whose encoding is below every bound on sizes but the small ones.
const MANY: usize = 1_000_000;

/// What an empty message is answered. Whoever adds a procedure adds what it says to this.
#[rustfmt::skip]
const EMPTY: &[(&str, Code, &str)] = &[
    ("/grpc.health.v1.Health/Check", Code::Ok, ""),
    // It goes on for as long as the caller likes.
    ("/grpc.health.v1.Health/Watch", Code::DeadlineExceeded, ""),
    ("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", Code::InvalidArgument, "invalid MessageRequest"),
    ("/fleet.v1.Enrolment/Enrol", Code::Unauthenticated, "not a fleet-join token"),
    ("/fleet.v1.Enrolment/Renew", Code::InvalidArgument, "certificate request"),
    ("/fleet.v1.Workers/Session", Code::FailedPrecondition, "the first message of a session is a hello"),
    ("/fleet.v1.Paths/Register", Code::PermissionDenied, "it names no right"),
    ("/fleet.v1.Paths/Look", Code::Ok, ""),
    ("/fleet.v1.Paths/Vouch", Code::PermissionDenied, "it names no right"),
    ("/fleet.v1.Paths/Locate", Code::PermissionDenied, "it names no right"),
    ("/fleet.v1.Cache/Info", Code::Ok, ""),
    ("/fleet.v1.Cache/Collect", Code::Ok, ""),
    ("/fleet.v1.Cache/Verify", Code::Ok, ""),
    ("/fleet.v1.Cache/Pin", Code::InvalidArgument, ""),
    ("/fleet.v1.Cache/Unpin", Code::NotFound, ""),
    ("/fleet.v1.Cache/ListRoots", Code::Ok, ""),
    ("/fleet.v1.Chunks/FindMissing", Code::Ok, ""),
    ("/fleet.v1.Chunks/Put", Code::InvalidArgument, "a digest has 32 bytes"),
    ("/fleet.v1.Chunks/Get", Code::PermissionDenied, "it names no path"),
    ("/fleet.v1.Runs/Submit", Code::InvalidArgument, "field "),
    ("/fleet.v1.Runs/Cancel", Code::NotFound, "there is no run"),
    ("/fleet.v1.Runs/Events", Code::NotFound, "there is no run"),
    ("/fleet.v1.Runs/Logs", Code::InvalidArgument, "a selector"),
    ("/fleet.v1.Runs/List", Code::Ok, ""),
    ("/fleet.v1.Runs/Show", Code::NotFound, "there is no run"),
    ("/fleet.v1.Runs/Status", Code::Ok, ""),
    ("/fleet.v1.Runs/Why", Code::InvalidArgument, "a selector"),
    ("/fleet.v1.Admin/CreateJoinToken", Code::InvalidArgument, "name"),
    ("/fleet.v1.Admin/CreateClientToken", Code::InvalidArgument, "name"),
    ("/fleet.v1.Admin/ListClients", Code::Ok, ""),
    ("/fleet.v1.Admin/RevokeClient", Code::InvalidArgument, "name"),
    ("/fleet.v1.Admin/ListWorkers", Code::Ok, ""),
    ("/fleet.v1.Admin/OrderWorker", Code::InvalidArgument, "name"),
];

/// What a request that can be decoded may be answered, besides with success.
const KNOWN: [Code; 9] = [
    Code::InvalidArgument,
    Code::NotFound,
    Code::AlreadyExists,
    Code::PermissionDenied,
    Code::Unauthenticated,
    Code::ResourceExhausted,
    Code::FailedPrecondition,
    Code::Aborted,
    Code::OutOfRange,
];

/// A procedure as the protocol describes it.
struct Procedure {
    path: String,
    input: String,
    /// The caller may send any number of messages.
    streamed: bool,
}

/// The protocol: its procedures, and its messages by full name.
struct Protocol {
    procedures: Vec<Procedure>,
    messages: BTreeMap<String, DescriptorProto>,
}

impl Protocol {
    fn read() -> Self {
        let sets = [
            fleet_wire::DESCRIPTORS,
            tonic_health::pb::FILE_DESCRIPTOR_SET,
            tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
        ];
        let mut protocol = Self { procedures: Vec::new(), messages: BTreeMap::new() };
        for set in sets {
            let set = FileDescriptorSet::decode(set).expect("compiled");
            for file in &set.file {
                for message in &file.message_type {
                    protocol
                        .messages
                        .insert(format!("{}.{}", file.package(), message.name()), message.clone());
                }
                // Workers ask each other there, and not the coordinator.
                for service in file.service.iter().filter(|service| service.name() != "Peer") {
                    let prefix = format!("/{}.{}", file.package(), service.name());
                    let procedure = |method: &MethodDescriptorProto| Procedure {
                        path: format!("{prefix}/{}", method.name()),
                        input: method.input_type().trim_start_matches('.').to_owned(),
                        streamed: method.client_streaming(),
                    };
                    protocol.procedures.extend(service.method.iter().map(procedure));
                }
            }
        }
        protocol
    }

    /// Every field of a message and of those in it, as a function from what it holds to the whole message.
    fn fields(&self, message: &str) -> Vec<Place> {
        let mut places = Vec::new();
        self.walk(message, &[], &mut places);
        places
    }

    fn walk(&self, message: &str, above: &[u64], places: &mut Vec<Place>) {
        for field in &self.messages[message].field {
            let number = u64::try_from(field.number()).expect("positive");
            places.push(Place {
                name: format!("{message}.{}", field.name()),
                above: above.to_vec(),
                number,
                kind: field.r#type(),
                repeated: field.label() == Label::Repeated,
            });
            if field.r#type() == Type::Message {
                let above = [above, &[number]].concat();
                self.walk(field.type_name().trim_start_matches('.'), &above, places);
            }
        }
    }
}

/// A field, somewhere in a message.
struct Place {
    name: String,
    /// Numbers of the fields it lies in.
    above: Vec<u64>,
    number: u64,
    kind: Type,
    repeated: bool,
}

impl Place {
    /// The message with only this field, encoded as `wire_type` and `value`.
    fn with(&self, wire_type: u64, value: &[u8]) -> Vec<u8> {
        self.wrapped(&[&varint(self.number << 3 | wire_type), value].concat())
    }

    /// The message with this field, holding these bytes.
    fn holding(&self, bytes: &[u8]) -> Vec<u8> {
        self.with(2, &[&varint(bytes.len() as u64), bytes].concat())
    }

    /// The message with so many of this field, each empty.
    fn many(&self, entries: usize) -> Vec<u8> {
        let entry = if self.has_length() { 2 } else { 0 };
        let entry = [varint(self.number << 3 | entry), vec![0]].concat();
        self.wrapped(&entry.repeat(entries))
    }

    fn wrapped(&self, encoded: &[u8]) -> Vec<u8> {
        self.above.iter().rev().fold(encoded.to_vec(), |inner, number| {
            [&varint(number << 3 | 2), &varint(inner.len() as u64)[..], &inner].concat()
        })
    }

    fn has_length(&self) -> bool {
        matches!(self.kind, Type::String | Type::Bytes | Type::Message)
    }
}

fn varint(number: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode_varint(number, &mut bytes);
    bytes
}

/// One message as gRPC frames it.
fn frame(flag: u8, message: &[u8]) -> Vec<u8> {
    let length = u32::try_from(message.len()).expect("small").to_be_bytes();
    [&[flag], &length[..], message].concat()
}

/// A body of these bytes.
struct Whole(Option<Bytes>);

impl http_body::Body for Whole {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        Poll::Ready(self.0.take().map(|bytes| Ok(Frame::data(bytes))))
    }
}

/// Sends bytes as a request's body. What is not over after a moment is a stream that was opened.
async fn send(channel: &Channel, path: &str, encoding: Option<&str>, body: Vec<u8>) -> Status {
    let mut request = http::Request::post(format!("http://coordinator{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    if let Some(encoding) = encoding {
        request = request.header("grpc-encoding", encoding);
    }
    let request = request.body(Body::new(Whole(Some(body.into())))).expect("a request");
    let answer = async {
        let answer = channel.clone().oneshot(request).await.expect("the connection lasts");
        if let Some(status) = Status::from_header_map(answer.headers()) {
            return status;
        }
        let mut body = answer.into_body();
        loop {
            match std::future::poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await {
                Some(Ok(frame)) => {
                    if let Some(trailers) = frame.trailers_ref() {
                        return Status::from_header_map(trailers).expect("trailers have a status");
                    }
                }
                Some(Err(error)) => return error,
                None => return Status::unknown("it ended without a status"),
            }
        }
    };
    if path == "/grpc.health.v1.Health/Watch" {
        let moment = std::time::Duration::from_millis(200);
        let open = || Status::deadline_exceeded("the stream goes on");
        return tokio::time::timeout(moment, answer).await.unwrap_or_else(|_| open());
    }
    within(answer).await
}

/// Reflection, which is not ours, ends its stream without a word when it cannot read on.
fn is_silent(status: &Status, path: &str) -> bool {
    path.starts_with("/grpc.reflection.") && status.code() == Code::Ok
}

/// A message that cannot be read was the caller's fault, and it was told so.
fn assert_unreadable(status: &Status, what: &str) {
    if !is_silent(status, what) {
        assert_said(status, Code::InvalidArgument, "", what);
    }
}

/// The callers who may.
struct Callers {
    stranger: Channel,
    submitter: Channel,
    worker: Channel,
    this_user: Channel,
}

impl Callers {
    async fn of(running: &Running) -> Self {
        let submitter = client(&running.authority(), "submitter", Role::Submit, fleet_identity::unix_now());
        Self {
            stranger: running.remote(None),
            submitter: running.remote(Some(&submitter)),
            worker: running.remote(Some(&running.enrolled("w").await)),
            this_user: running.local(),
        }
    }

    fn who_may(&self, path: &str) -> &Channel {
        match path {
            "/fleet.v1.Enrolment/Enrol" | "/grpc.health.v1.Health/Check" => &self.stranger,
            "/fleet.v1.Enrolment/Renew" | "/fleet.v1.Workers/Session" | "/fleet.v1.Chunks/Get" => {
                &self.worker
            }
            _ if path.starts_with("/fleet.v1.Paths/") => &self.worker,
            _ if path.starts_with("/fleet.v1.Runs/") || path.starts_with("/fleet.v1.Chunks/") => {
                &self.submitter
            }
            _ => &self.this_user,
        }
    }

    async fn ask(&self, path: &str, body: Vec<u8>) -> Status {
        send(self.who_may(path), path, None, body).await
    }
}

/// A coordinator that does not mind how often somebody fails to enrol.
fn start() -> Running {
    Running::start_with("[server]\nmax_failed_enrolments = 1000000\n", |_| {})
}

/// It was said exactly this, with a reason.
fn assert_said(status: &Status, code: Code, fragment: &str, what: &str) {
    assert_eq!(status.code(), code, "{what}: {status}");
    assert!(code == Code::Ok || !status.message().is_empty(), "{what}: no reason");
    assert!(status.message().contains(fragment), "{what}: {status}");
}

/// It was said what may be said to a request that can be read.
fn assert_known(status: &Status, what: &str) {
    let open = what.starts_with("/grpc.health.v1.Health/Watch") && status.code() == Code::DeadlineExceeded;
    assert!(open || status.code() == Code::Ok || KNOWN.contains(&status.code()), "{what}: {status}");
    assert!(status.code() == Code::Ok || !status.message().is_empty(), "{what}: no reason");
}

/// Others are served, nothing panicked, and not much memory was taken.
async fn assert_unharmed(running: &Running, callers: &Callers, idle_kib: u64) {
    for channel in [&callers.submitter, &callers.this_user] {
        assert_eq!(list_runs(channel.clone(), None).await, Code::Ok, "the same connection serves on");
    }
    let body = frame(0, &[]);
    let looked = callers.ask("/fleet.v1.Paths/Look", body).await;
    assert_eq!(looked.code(), Code::Ok, "the worker's connection serves on: {looked}");
    assert_eq!(list_runs(running.local(), None).await, Code::Ok, "a new connection is served");
    let said = running.said_so_far();
    assert!(!said.contains("panicked"), "{said}");
    let grown = running.peak_memory_kib().saturating_sub(idle_kib);
    assert!(grown <= MAX_GROWTH_KIB, "{grown} KiB over idle");
}

#[tokio::test]
async fn an_empty_message_and_none_have_their_exact_answer_on_every_procedure() {
    let (running, protocol) = (start(), Protocol::read());
    let callers = Callers::of(&running).await;
    let described: BTreeSet<_> =
        protocol.procedures.iter().map(|procedure| procedure.path.as_str()).collect();
    assert_eq!(EMPTY.iter().map(|(path, ..)| *path).collect::<BTreeSet<_>>(), described);
    let idle = running.peak_memory_kib();
    for Procedure { path, streamed, .. } in &protocol.procedures {
        let (_, code, fragment) = EMPTY.iter().find(|(of, ..)| of == path).expect("it is in the table");
        assert_said(&callers.ask(path, frame(0, &[])).await, *code, fragment, path);
        let none = callers.ask(path, Vec::new()).await;
        match (*streamed, path.as_str()) {
            (true, "/fleet.v1.Workers/Session") => assert_said(&none, *code, fragment, path),
            (true, _) => assert_said(&none, Code::Ok, "", path),
            (false, _) => assert_said(&none, Code::InvalidArgument, "issing request message", path),
        }
    }
    for path in
        ["/", "/fleet.v1.Runs/Nothing", "/fleet.v1.Runs/", "/fleet.v1.Nothing/List", "/fleet.v1.Runs/list"]
    {
        let status = send(&callers.this_user, path, None, frame(0, &[])).await;
        assert_said(&status, Code::Unimplemented, "no such procedure", path);
    }
    assert_unharmed(&running, &callers, idle).await;
}

#[tokio::test]
async fn bytes_that_are_no_message_are_the_callers_fault_on_every_procedure() {
    let (running, protocol) = (start(), Protocol::read());
    let callers = Callers::of(&running).await;
    let idle = running.peak_memory_kib();
    let broken: [(&str, Vec<u8>); 6] = [
        ("a varint of 11 bytes", vec![0xff; 11]),
        ("a length beyond the end", b"\x0a\xff\xff\xff\xff\x0f".to_vec()),
        ("a bad wire type", b"\x07".to_vec()),
        ("a key without a value", b"\x08".to_vec()),
        ("field number 0", b"\x02\x00".to_vec()),
        ("groups in groups", [0xf3, 0x07].repeat(5_000)),
    ];
    for Procedure { path, .. } in &protocol.procedures {
        for (what, message) in &broken {
            let status = callers.ask(path, frame(0, message)).await;
            assert_unreadable(&status, &format!("{path}: {what}"));
        }
        let framing: [(&str, Vec<u8>, Code); 7] = [
            ("a message that ends early", frame(0, &[0; 10])[..8].to_vec(), Code::InvalidArgument),
            ("half a frame's header", vec![0, 0, 0], Code::InvalidArgument),
            ("compressed by nothing", frame(1, b"x"), Code::InvalidArgument),
            ("compressed in an unknown way", frame(2, b"x"), Code::InvalidArgument),
            ("another unknown flag", frame(0xff, b""), Code::InvalidArgument),
            ("a length above every bound", vec![0, 0xff, 0xff, 0xff, 0xff], Code::OutOfRange),
            ("17 MiB to come", vec![0, 1, 0x10, 0, 0, 1, 2, 3], Code::OutOfRange),
        ];
        for (what, body, code) in framing {
            let status = callers.ask(path, body).await;
            if !is_silent(&status, path) {
                assert_said(&status, code, "", &format!("{path}: {what}"));
            }
        }
        let zipped = send(callers.who_may(path), path, Some("gzip"), frame(1, b"x")).await;
        assert_said(&zipped, Code::Unimplemented, "gzip", &format!("{path}: compressed"));
    }
    assert_unharmed(&running, &callers, idle).await;
}

/// Puts nonsense into each field of a procedure's request, one at a time.
async fn fill_with_nonsense(callers: &Callers, protocol: &Protocol, procedure: &Procedure) {
    let Procedure { path, input, .. } = procedure;
    let most = varint(u64::MAX);
    for place in protocol.fields(input) {
        let what = format!("{path}: {}", place.name);
        let mut unreadable = vec![("wrong wire type", place.with(5, &[0; 4]))];
        let mut readable = Vec::new();
        match place.kind {
            Type::String => {
                unreadable.push(("no UTF-8", place.holding(b"\xff\xfe")));
                unreadable.push(("half a letter", place.holding(b"a\xc3")));
                readable.extend(
                    ["\0", "a\n", "\u{202e}", "../..", "-x"].map(|text| place.holding(text.as_bytes())),
                );
                readable.push(place.holding(&[b'a'; 4096]));
            }
            Type::Bytes => readable.extend([1, 31, 32, 33].map(|length| place.holding(&vec![7; length]))),
            Type::Message => {
                unreadable.push(("a message that ends early", place.with(2, b"\x05\x0a")));
                readable.push(place.holding(b""));
            }
            Type::Enum => {
                readable.extend([99, u64::MAX, 1 << 31].map(|number| place.with(0, &varint(number))));
            }
            Type::Double => unreadable.clear(),
            _ => {
                unreadable.push(("a varint without end", place.with(0, &[0xff; 11])));
                readable.push(place.with(0, &most));
            }
        }
        for (how, message) in unreadable {
            let status = callers.ask(path, frame(0, &message)).await;
            assert_unreadable(&status, &format!("{what}: {how}"));
        }
        for message in readable {
            assert_known(&callers.ask(path, frame(0, &message)).await, &format!("{what}: {message:x?}"));
        }
    }
}

#[tokio::test]
async fn every_field_of_every_request_may_hold_nonsense() {
    let (running, protocol) = (start(), Protocol::read());
    let callers = Callers::of(&running).await;
    let idle = running.peak_memory_kib();
    let asked =
        protocol.procedures.iter().map(|procedure| fill_with_nonsense(&callers, &protocol, procedure));
    futures::future::join_all(asked).await;
    assert_unharmed(&running, &callers, idle).await;
}

#[tokio::test]
async fn a_million_entries_are_refused_before_they_take_memory() {
    let (running, protocol) = (start(), Protocol::read());
    let callers = Callers::of(&running).await;
    let idle = running.peak_memory_kib();
    let mut seen = 0;
    for Procedure { path, input, .. } in protocol.procedures.iter().filter(|p| p.path.starts_with("/fleet")) {
        for place in protocol.fields(input).iter().filter(|place| place.repeated) {
            let what = format!("{path}: {}", place.name);
            let status = callers.ask(path, frame(0, &place.many(MANY))).await;
            if path.starts_with("/fleet.v1.Admin/") {
                // Nothing of this size is taken there.
                assert_said(&status, Code::OutOfRange, "", &what);
            } else {
                assert_said(&status, Code::InvalidArgument, "entries together", &what);
            }
            seen += 1;
        }
    }
    assert!(seen > 20, "{seen} lists");
    assert_unharmed(&running, &callers, idle).await;
}

/// Numbers that look random, and are the same each time.
fn numbers(mut seed: u64) -> impl FnMut() -> u64 {
    move || {
        seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (seed ^ (seed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

#[tokio::test]
async fn random_bytes_are_answered_with_a_known_status() {
    const ROUNDS: usize = 20;
    let (running, protocol) = (start(), Protocol::read());
    let callers = Callers::of(&running).await;
    let idle = running.peak_memory_kib();
    let mut next = numbers(20_771);
    for Procedure { path, input, .. } in &protocol.procedures {
        let places = protocol.fields(input);
        for round in 0..ROUNDS {
            let length = usize::try_from(next() % 200).expect("small");
            let bytes: Vec<u8> = (0..length).map(|_| next().to_le_bytes()[0]).collect();
            // By turns a body, a message, and what a field of it holds.
            let body = match (round % 3, places.is_empty()) {
                (0, _) => bytes,
                (1, _) | (_, true) => frame(0, &bytes),
                _ => frame(0, &places[round % places.len()].holding(&bytes)),
            };
            let status = callers.ask(path, body.clone()).await;
            assert_known(&status, &format!("{path}: {body:x?}"));
        }
    }
    assert_unharmed(&running, &callers, idle).await;
}
