//! `store removesrv` and `store transfer`: orders for the leader, by way of a
//! load balancer. The cluster key opens the way.

use std::net::{SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use client::race;
use common::control::{
    Hello, Operation, Outcome as Answer, PROTOCOL_VERSION, Party, ToLb, ToServer,
};
use common::ids::FolderId;
use common::udp::{ClusterKey, Endpoint, Lane, Link, Receive};
use server::identity::Folder;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout_at};

use crate::args::{DEFAULT_DIR, LB_SERVER_PORT};
use crate::failure::{Failure, Outcome, complain, say};
use crate::home::{Home, Node};
use crate::serve::LOOPBACK;
use crate::values;

/// How long what was asked for may take to come about.
const PATIENCE: Duration = Duration::from_secs(5);

/// What takes longer than this is told.
const SILENTLY: Duration = Duration::from_millis(250);

/// How long the process of a server that was removed may take to end.
const STOPS_WITHIN: Duration = Duration::from_secs(2);

/// Between two questions.
const AGAIN: Duration = Duration::from_millis(50);

/// Which load balancer brings an operator's command to the leader.
#[derive(Args, Debug)]
pub(crate) struct ByWay {
    /// Folder with the cluster's key, and whose load balancers are asked
    #[arg(long, default_value = DEFAULT_DIR)]
    pub(crate) dir: PathBuf,
    /// Load balancers' addresses for servers, e.g. `a:5001,b:5001` [default: those of the folder]
    #[arg(long, value_delimiter = ',', value_parser = values::remote, value_name = "HOST:PORT")]
    pub(crate) lb: Vec<SocketAddr>,
}

/// `store removesrv`.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  \
    store removesrv srv-3            it votes no longer and stops; its data stay. It\n                                   stays removed until `store addsrv --name srv-3`\n  \
    store removesrv '#3' --force     by its id; though only one server votes then\n\n\
    Refused if fewer than two servers, or no majority of them, would be left to vote.")]
pub(crate) struct RemoveArgs {
    /// Its name, or its id: `#3`, or `3` if none has that name
    pub(crate) server: String,
    /// Even if fewer than two voters or no majority of them would be left
    #[arg(long)]
    pub(crate) force: bool,
    /// By way of whom.
    #[command(flatten)]
    pub(crate) by: ByWay,
}

/// `store transfer`.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  store transfer\n  store transfer srv-2")]
pub(crate) struct TransferArgs {
    /// To whom, by name or id [default: the voter that is furthest along]
    pub(crate) server: Option<String>,
    /// By way of whom.
    #[command(flatten)]
    pub(crate) by: ByWay,
}

/// `store removesrv`.
pub(crate) fn remove(args: &RemoveArgs) -> Outcome {
    let home = Home::at(&args.by.dir)?;
    run(&args.by, async |mut order: Order| {
        let removal =
            |server: String, only_look| Operation::Remove { server, force: args.force, only_look };
        // Its name may mean another server once it is gone, so that is asked for once
        // and changes nothing: the answer to a removal may be lost.
        let mut wanted = removal(args.server.clone(), true);
        let mut removed: Option<(String, Option<FolderId>)> = None;
        loop {
            match order.ask(&wanted).await? {
                Answer::Done(text) => return Ok(text),
                Answer::Removes { id, name, folder } => {
                    wanted = removal(format!("#{id}"), false);
                    if removed.is_some() {
                        order.wait(&format!("the removal of {name} is being committed")).await?;
                    }
                    removed = Some((name, Some(folder)));
                }
                Answer::Pending(why) | Answer::HandsOver(why) => order.wait(&why).await?,
                Answer::Stops(_) => {
                    let (name, folder) = removed.unwrap_or((args.server.clone(), None));
                    return Ok(order.see_it_end(&wanted, &home, &name, folder).await);
                }
                // It was a member before, and is none any more.
                Answer::Unknown(why) => match removed {
                    None => return Err(Failure::refused(why)),
                    Some((name, folder)) => {
                        return Ok(order.see_it_end(&wanted, &home, &name, folder).await);
                    }
                },
                Answer::Refused(why) => return Err(Failure::refused(why)),
            }
        }
    })
}

/// `store transfer`.
pub(crate) fn transfer(args: &TransferArgs) -> Outcome {
    run(&args.by, async |mut order: Order| {
        let mut to = args.server.clone();
        loop {
            match order.ask(&Operation::Transfer { to: to.clone() }).await? {
                Answer::Done(text) => return Ok(format!("{text}.")),
                Answer::HandsOver(name) => {
                    order.wait(&format!("leadership goes to {name}")).await?;
                    to = Some(name);
                }
                Answer::Pending(why) | Answer::Stops(why) => order.wait(&why).await?,
                Answer::Removes { name, .. } => {
                    return Err(Failure::refused(format!("{name} is being removed instead")));
                }
                Answer::Unknown(why) | Answer::Refused(why) => return Err(Failure::refused(why)),
            }
        }
    })
}

fn run(by: &ByWay, give: impl AsyncFnOnce(Order) -> Outcome<String>) -> Outcome {
    let home = Home::at(&by.dir)?;
    let key = ClusterKey::load(&home.key_file()).map_err(|error| {
        Failure::usage(format!("{error}; the folder that holds it is named with --dir"))
    })?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::refused(format!("cannot start the runtime: {error}")))?;
    let text = runtime.block_on(async {
        let order = Order::connect(&load_balancers(by, &home)?, &key).await?;
        let endpoint = order.endpoint.clone();
        let done = give(order).await;
        endpoint.close().await;
        done
    })?;
    say!("{text}");
    Ok(())
}

fn load_balancers(by: &ByWay, home: &Home) -> Outcome<Vec<SocketAddr>> {
    if !by.lb.is_empty() {
        return Ok(by.lb.clone());
    }
    let known: Vec<_> = home.load_balancers()?.into_iter().map(|(_, lb)| lb.server).collect();
    match known.is_empty() {
        true => Ok(vec![SocketAddr::new(LOOPBACK, LB_SERVER_PORT)]),
        false => Ok(known),
    }
}

/// The node whose folder this is, if it is one of this data folder.
fn node_of(home: &Home, folder: FolderId) -> Option<Node> {
    let is_it = |node: &Node| {
        let identity = Folder::look(&node.dir).ok().flatten();
        identity.is_some_and(|identity| identity.folder == folder)
    };
    home.nodes().ok()?.into_iter().find(is_it)
}

/// A link to a load balancer, and how long what was asked for may still take.
struct Order {
    endpoint: Endpoint,
    link: Link,
    answers: mpsc::UnboundedReceiver<Answer>,
    until: Instant,
    /// What was told last that it waits for.
    told: Option<String>,
}

struct Answers(mpsc::UnboundedSender<Answer>);

impl Receive for Answers {
    fn frame(&self, _lane: Lane, frame: Bytes) {
        // Whoever asked waits no longer when it has gone.
        if let Ok(ToServer::Operated(answer)) = serde_json::from_slice(&frame) {
            let _ = self.0.send(answer);
        }
    }

    fn closed(&self, _reason: String) {}
}

impl Order {
    /// To the first load balancer that answers. One that hangs costs a moment.
    async fn connect(lbs: &[SocketAddr], key: &ClusterKey) -> Outcome<Order> {
        let until = Instant::now() + PATIENCE;
        match race::first_good(lbs, |lb| dial(lb, key)).await {
            Ok((_, (endpoint, link))) => {
                let (sender, answers) = mpsc::unbounded_channel();
                link.start(std::sync::Arc::new(Answers(sender)));
                Ok(Order { endpoint, link, answers, until, told: None })
            }
            Err(all) => {
                let all: Vec<_> = all.into_iter().map(|(_, error)| error).collect();
                Err(Failure::unreachable(format!(
                    "no load balancer was reached: {}; name one with --lb",
                    all.join("; ")
                )))
            }
        }
    }

    async fn ask(&mut self, wanted: &Operation) -> Outcome<Answer> {
        let message = ToLb::Operate(wanted.clone());
        let text = serde_json::to_vec(&message).unwrap_or_default();
        let lost = |why: String| Failure::unreachable(format!("the load balancer was lost: {why}"));
        self.link.send(Lane::Control, &text).map_err(|error| lost(error.to_string()))?;
        tokio::select! {
            answer = timeout_at(self.until, self.answers.recv()) => match answer {
                Ok(Some(answer)) => Ok(answer),
                _ => Err(late(self.told.as_deref().unwrap_or("no answer came"))),
            },
            why = self.link.closed() => Err(lost(why)),
        }
    }

    /// Waits until the process of a server that was removed has ended, as far as
    /// it can be seen from here or by the load balancer: only then can another one
    /// have its folder. What to say of it.
    async fn see_it_end(
        &mut self,
        wanted: &Operation,
        home: &Home,
        name: &str,
        folder: Option<FolderId>,
    ) -> String {
        let by = Instant::now() + STOPS_WITHIN;
        self.until = by;
        let node = folder.and_then(|folder| node_of(home, folder));
        loop {
            let here = node.as_ref().and_then(Node::running);
            // Without an answer, the folder alone tells.
            let there = matches!(self.ask(wanted).await, Ok(Answer::Stops(_)));
            if here.is_none() && !there {
                return format!(
                    "{name} is removed. Its data stay: `store addsrv --name {name}` brings it back."
                );
            }
            if Instant::now() + AGAIN >= by {
                let who = here.map_or(String::new(), |pid| format!(" {pid}"));
                return format!(
                    "{name} is removed. Its process{who} was not seen to end: it is stopped as soon \
                     as it is heard again."
                );
            }
            sleep(AGAIN).await;
        }
    }

    /// Waits a moment before the next question, unless the time is up.
    async fn wait(&mut self, why: &str) -> Outcome {
        if Instant::now() + AGAIN >= self.until {
            return Err(late(why));
        }
        let left = self.until.saturating_duration_since(Instant::now());
        if self.told.as_deref() != Some(why) && left + SILENTLY < PATIENCE {
            self.told = Some(why.to_owned());
            complain!("store: {why}; waiting up to {} s", left.as_secs() + 1);
        }
        sleep(AGAIN).await;
        Ok(())
    }
}

fn late(why: &str) -> Failure {
    Failure::unreachable(format!(
        "not done within {} s: {why}; what became of it is shown by `store status`",
        PATIENCE.as_secs()
    ))
}

/// A link to the load balancer at `lb`, over a socket of its own.
async fn dial(lb: SocketAddr, key: &ClusterKey) -> Result<(Endpoint, Link), String> {
    let hello =
        Hello { version: PROTOCOL_VERSION, from: Party::Operator { name: "orders".to_owned() } };
    let from = match lb {
        _ if lb.ip().is_loopback() => SocketAddr::new(lb.ip(), 0),
        SocketAddr::V4(_) => SocketAddr::from(([0, 0, 0, 0], 0)),
        SocketAddr::V6(_) => SocketAddr::from(([0; 16], 0)),
    };
    let endpoint = UdpSocket::bind(from)
        .and_then(|socket| Endpoint::new(socket, key, hello))
        .map_err(|error| format!("cannot use UDP for {lb}: {error}"))?;
    match endpoint.connect(lb).await {
        Ok((link, Hello { from: Party::LoadBalancer { .. }, .. })) => Ok((endpoint, link)),
        Ok(_) => Err(format!("{lb} is no load balancer")),
        Err(error) => Err(error.to_string()),
    }
}
