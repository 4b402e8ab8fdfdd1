//! Puts and linearizable ranges against etcd v3, with the options and the
//! report of `client bench`, so that both can stand in one table.
//!
//! gRPC by hand: the three messages it needs are a few bytes of protobuf, and
//! a generated client would bring a compiler for them. Each client has one
//! request under way, as in etcd's own `benchmark put --conns C --clients N`.
//!
//! ```text
//! cargo run --release -p store-client --example etcd_load -- \
//!     --endpoint 127.0.0.1:2379 --endpoint 127.0.0.1:22379 --target-leader --op set
//! ```

use std::cell::RefCell;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes, BytesMut};
use clap::Parser;
use h2::client::SendRequest;
use http::Request;
use store_client::bench::{BenchArgs, Limit, Operation, Plan, Progress, Report, Stopwatch, Tally};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// Loads etcd as `client bench` loads the store.
#[derive(Parser)]
struct Arguments {
    /// Client address of an etcd server; connections are spread over all that are given
    #[arg(long, default_value = "127.0.0.1:2379")]
    endpoint: Vec<SocketAddr>,
    /// Ask the endpoints who leads and use only that one
    #[arg(long)]
    target_leader: bool,
    /// Clients that share one connection, each with one request under way
    #[arg(long, default_value_t = 1)]
    clients_per_connection: usize,
    #[command(flatten)]
    bench: BenchArgs,
}

type Failure = Box<dyn std::error::Error>;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("Error: {error}");
            return ExitCode::from(3);
        }
    };
    let tasks = tokio::task::LocalSet::new();
    match tasks.block_on(&runtime, run(&arguments)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("Error: {error}");
            ExitCode::from(3)
        }
    }
}

async fn run(arguments: &Arguments) -> Result<(), Failure> {
    let plan = arguments.bench.plan()?;
    if plan.operation == Operation::Mix || plan.pipeline != 1 || plan.rate.is_some() {
        return Err("only --op set and --op get, without --pipeline and --rate".into());
    }
    let mut endpoints = arguments.endpoint.clone();
    if arguments.target_leader {
        endpoints = vec![leader(&endpoints).await?];
    }
    let clients = connect(&plan, &endpoints, arguments.clients_per_connection).await?;
    if plan.prefill {
        let prefill = Plan {
            operation: Operation::Set,
            limit: Limit::Requests(plan.keys),
            warmup: Duration::ZERO,
            sequential: true,
            label: "prefill",
            ..plan.clone()
        };
        measure(&prefill, &clients).await?;
    }
    let tally = measure(&plan, &clients).await?;
    let names: Vec<String> = endpoints.iter().map(SocketAddr::to_string).collect();
    let report = Report::new(&plan, names.join(","), &tally);
    match arguments.bench.json.as_deref() {
        Some("-") => println!("{}", report.to_json()),
        Some(file) => {
            std::fs::write(file, report.to_json() + "\n")?;
            print!("{report}");
        }
        None => print!("{report}"),
    }
    if report.ops == 0 {
        return Err("nothing succeeded; the report names the errors".into());
    }
    Ok(())
}

/// One handle per client.
async fn connect(
    plan: &Plan,
    endpoints: &[SocketAddr],
    clients_per_connection: usize,
) -> Result<Vec<SendRequest<Bytes>>, Failure> {
    let mut clients = Vec::with_capacity(plan.connections);
    while clients.len() < plan.connections {
        let connection = clients.len() / clients_per_connection.max(1);
        let handle = open(endpoints[connection % endpoints.len()]).await?;
        let sharers = clients_per_connection.max(1).min(plan.connections - clients.len());
        clients.extend((0..sharers).map(|_| handle.clone()));
    }
    Ok(clients)
}

async fn open(endpoint: SocketAddr) -> Result<SendRequest<Bytes>, Failure> {
    let stream = TcpStream::connect(endpoint)
        .await
        .map_err(|error| format!("cannot connect to etcd at {endpoint}: {error}"))?;
    stream.set_nodelay(true)?;
    let (handle, connection) = h2::client::handshake(stream).await?;
    tokio::task::spawn_local(async move {
        // Its clients see the end of the connection in their own requests.
        let _ = connection.await;
    });
    Ok(handle)
}

/// Asks each endpoint for its status: the leader is the one that names itself.
async fn leader(endpoints: &[SocketAddr]) -> Result<SocketAddr, Failure> {
    for endpoint in endpoints {
        let handle = open(*endpoint).await?;
        let reply = call(&handle, "/etcdserverpb.Maintenance/Status", Bytes::new()).await?;
        // StatusResponse: 1 header { 2 member_id }, 4 leader.
        let header = field_bytes(&reply, 1).unwrap_or_default();
        let (member, leads) = (field_number(&header, 2), field_number(&reply, 4));
        if member.is_some() && member == leads {
            return Ok(*endpoint);
        }
    }
    Err("no endpoint says that it leads; give all endpoints, each with --endpoint".into())
}

/// What the clients share.
struct Shared {
    plan: Plan,
    tally: Tally,
    issued: u64,
    next_key: u64,
    state: u64,
    stop: bool,
}

impl Shared {
    /// The next key, or nothing when the measurement is over.
    fn next(&mut self) -> Option<u64> {
        if self.stop || matches!(self.plan.limit, Limit::Requests(limit) if self.issued >= limit) {
            return None;
        }
        self.issued += 1;
        if self.plan.sequential {
            self.next_key += 1;
            return Some((self.next_key - 1) % self.plan.keys);
        }
        // A Weyl sequence, scrambled: every key is about as likely as any other.
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.state ^ (self.state >> 31)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        Some((mixed >> 11) % self.plan.keys)
    }
}

async fn measure(plan: &Plan, clients: &[SendRequest<Bytes>]) -> Result<Tally, Failure> {
    let shared = Rc::new(RefCell::new(Shared {
        plan: plan.clone(),
        tally: Tally::new(),
        issued: 0,
        next_key: 0,
        state: plan.seed,
        stop: false,
    }));
    let begin = Instant::now();
    let mut watch = Stopwatch::start();
    let mut tasks = JoinSet::new();
    for handle in clients {
        tasks.spawn_local(one_client(handle.clone(), shared.clone()));
    }
    let progress = Progress::new(plan.label, &plan.limit, plan.warmup);
    let mut warm = plan.warmup.is_zero();
    let mut shown = (begin, 0);
    loop {
        tokio::select! {
            finished = tasks.join_next() => if finished.is_none() { break },
            () = tokio::time::sleep(Duration::from_millis(20)) => {}
        }
        let now = Instant::now();
        let mut shared = shared.borrow_mut();
        if !warm && now - begin >= plan.warmup {
            warm = true;
            watch = Stopwatch::start();
            shared.tally = Tally::new();
            shown = (now, 0);
        }
        let over = matches!(plan.limit, Limit::Duration(limit) if now - watch.started() >= limit);
        if warm && over {
            shared.stop = true;
            break;
        }
        let done = shared.tally.done();
        if now - shown.0 >= Duration::from_millis(100) {
            let per_second = (done - shown.1) as f64 / (now - shown.0).as_secs_f64();
            progress.show(now - begin, done, per_second);
            shown = (now, done);
        }
    }
    progress.finish();
    let mut tally = std::mem::take(&mut shared.borrow_mut().tally);
    tally.close(watch.read());
    while tasks.join_next().await.is_some() {}
    Ok(tally)
}

async fn one_client(handle: SendRequest<Bytes>, shared: Rc<RefCell<Shared>>) {
    let (operation, value) = {
        let plan = &shared.borrow().plan;
        (plan.operation, vec![b'x'; plan.value_size])
    };
    loop {
        let Some(key) = shared.borrow_mut().next() else { return };
        let key = format!("key-{key:08}");
        // PutRequest: 1 key, 2 value. RangeRequest: 1 key; linearizable by default.
        let mut message = BytesMut::with_capacity(value.len() + 32);
        push_field(&mut message, 1, key.as_bytes());
        let path = match operation {
            Operation::Get => "/etcdserverpb.KV/Range",
            _ => {
                push_field(&mut message, 2, &value);
                "/etcdserverpb.KV/Put"
            }
        };
        let since = Instant::now();
        let reply = call(&handle, path, message.freeze()).await;
        let now = Instant::now();
        let tally = &mut shared.borrow_mut().tally;
        match reply {
            // RangeResponse: 2 kvs, absent without a hit.
            Ok(reply) if operation == Operation::Get => {
                tally.get(now - since, field_bytes(&reply, 2).is_some());
                tally.mark(now);
            }
            Ok(_) => {
                tally.set(now - since);
                tally.mark(now);
            }
            Err(error) => {
                tally.error(&error.to_string(), 1);
                if error.downcast_ref::<h2::Error>().is_some() {
                    return;
                }
            }
        }
    }
}

/// One unary call; the message of the reply.
async fn call(
    handle: &SendRequest<Bytes>,
    path: &'static str,
    message: Bytes,
) -> Result<Bytes, Failure> {
    let mut handle = handle.clone().ready().await?;
    let request = Request::post(format!("http://etcd{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())?;
    let (response, mut stream) = handle.send_request(request, false)?;
    // One flag byte (not compressed), four bytes of length, the message.
    let mut frame = BytesMut::with_capacity(5 + message.len());
    frame.extend_from_slice(&[0]);
    frame.extend_from_slice(&(message.len() as u32).to_be_bytes());
    frame.extend_from_slice(&message);
    stream.send_data(frame.freeze(), true)?;
    let mut body = response.await?.into_body();
    let mut reply = BytesMut::new();
    while let Some(data) = body.data().await {
        let data = data?;
        body.flow_control().release_capacity(data.len())?;
        reply.extend_from_slice(&data);
    }
    let trailers = body.trailers().await?.ok_or("a reply without trailers")?;
    let status = trailers.get("grpc-status").map_or("none", |value| value.to_str().unwrap_or("?"));
    if status != "0" {
        let text = trailers.get("grpc-message").and_then(|value| value.to_str().ok());
        return Err(format!("gRPC status {status}: {}", text.unwrap_or("")).into());
    }
    if reply.len() < 5 {
        return Err("a reply without a message".into());
    }
    reply.advance(5);
    Ok(reply.freeze())
}

/// A length-delimited protobuf field.
fn push_field(out: &mut BytesMut, number: u8, content: &[u8]) {
    out.extend_from_slice(&[number << 3 | 2]);
    let mut length = content.len();
    while length >= 0x80 {
        out.extend_from_slice(&[length as u8 | 0x80]);
        length >>= 7;
    }
    out.extend_from_slice(&[length as u8]);
    out.extend_from_slice(content);
}

enum Field {
    Number(u64),
    Content(Bytes),
}

/// The first field with this number.
fn field(message: &Bytes, wanted: u64) -> Option<Field> {
    let mut rest = message.clone();
    while rest.has_remaining() {
        let tag = varint(&mut rest)?;
        let found = match tag & 7 {
            0 => Field::Number(varint(&mut rest)?),
            1 if rest.len() >= 8 => Field::Content(rest.split_to(8)),
            5 if rest.len() >= 4 => Field::Content(rest.split_to(4)),
            2 => {
                let length = usize::try_from(varint(&mut rest)?).ok()?;
                (length <= rest.len()).then(|| Field::Content(rest.split_to(length)))?
            }
            _ => return None,
        };
        if tag >> 3 == wanted {
            return Some(found);
        }
    }
    None
}

fn field_number(message: &Bytes, wanted: u64) -> Option<u64> {
    match field(message, wanted)? {
        Field::Number(number) => Some(number),
        Field::Content(_) => None,
    }
}

fn field_bytes(message: &Bytes, wanted: u64) -> Option<Bytes> {
    match field(message, wanted)? {
        Field::Content(content) => Some(content),
        Field::Number(_) => None,
    }
}

fn varint(input: &mut Bytes) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        if !input.has_remaining() {
            return None;
        }
        let byte = input.get_u8();
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}
