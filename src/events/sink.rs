//! A bounded queue in front of a Redis that may be away.

use std::sync::Arc;

use futures_util::future::join_all;
use redis::aio::MultiplexedConnection;
use redis::{Client, Pipeline, RedisError};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::connection::{self, PAUSE};
use crate::config::Redis;
use crate::telemetry::Metrics;
use crate::telemetry::metrics::Message;

/// Messages that wait at most; what comes on top is lost.
const QUEUE: usize = 4096;

/// Messages in one round trip at most.
const BATCH: usize = 256;

/// The way into one queue.
#[derive(Clone)]
pub(super) struct Sink {
    name: &'static str,
    queue: mpsc::Sender<Pipeline>,
    metrics: Arc<Metrics>,
}

impl Sink {
    /// `None` where the settings are such that Redis cannot even be tried.
    pub(super) fn start(
        name: &'static str,
        redis: &Redis,
        metrics: Arc<Metrics>,
        senders: &mut JoinSet<()>,
    ) -> Option<Self> {
        let client = connection::client(redis)
            .inspect_err(|error| tracing::warn!(%error, sink = name, "nothing is sent to Redis"))
            .ok()?;
        let (queue, waiting) = mpsc::channel(QUEUE);
        let server = Server { name, client, connection: None, away: false };
        senders.spawn(send_all(server, waiting, metrics.clone()));
        Some(Self { name, queue, metrics })
    }

    /// Puts a message into the queue, or loses it.
    pub(super) fn send(&self, message: Pipeline) {
        if self.queue.try_send(message).is_err() {
            count(&self.metrics, self.name, false, 1);
        }
    }
}

fn count(metrics: &Metrics, sink: &'static str, sent: bool, messages: usize) {
    let outcome = if sent { "sent" } else { "lost" };
    metrics.events.get_or_create(&Message { sink, outcome }).inc_by(messages as u64);
}

async fn send_all(
    mut server: Server,
    mut waiting: mpsc::Receiver<Pipeline>,
    metrics: Arc<Metrics>,
) {
    let mut batch = Vec::new();
    while waiting.recv_many(&mut batch, BATCH).await > 0 {
        let messages = batch.len();
        let lost = server.send(std::mem::take(&mut batch)).await;
        count(&metrics, server.name, true, messages - lost);
        count(&metrics, server.name, false, lost);
        if lost > 0 && !waiting.is_closed() {
            tokio::time::sleep(PAUSE).await;
        }
    }
}

struct Server {
    name: &'static str,
    client: Client,
    connection: Option<MultiplexedConnection>,
    away: bool,
}

impl Server {
    /// Returns how many were lost. One line in the log when Redis goes away, one when it is back.
    async fn send(&mut self, messages: Vec<Pipeline>) -> usize {
        let mut failed = self.try_send(messages).await;
        // The connection of an idle hour may have died with the last server. What was answered
        // is not sent again: a pull is counted once.
        if failed.as_ref().is_err_and(|(error, _)| error.is_connection_dropped())
            && let Err((_, messages)) = failed
        {
            failed = self.try_send(messages).await;
        }
        let (name, was_away) = (self.name, self.away);
        self.away = failed.is_err();
        match failed {
            Ok(()) => {
                if was_away {
                    tracing::info!(sink = name, "Redis is back");
                }
                0
            }
            Err((error, lost)) => {
                if !was_away {
                    tracing::warn!(%error, sink = name, "Redis is away: its messages are lost");
                }
                lost.len()
            }
        }
    }

    /// All of them at once; those without a good answer come back.
    async fn try_send(
        &mut self,
        messages: Vec<Pipeline>,
    ) -> Result<(), (RedisError, Vec<Pipeline>)> {
        let connection = match self.connect().await {
            Ok(connection) => connection,
            Err(error) => return Err((error, messages)),
        };
        let answers = join_all(messages.iter().map(|message| {
            let mut connection = connection.clone();
            async move { message.exec_async(&mut connection).await }
        }));
        let answers = answers.await;
        let (mut last, mut failed) = (None, Vec::new());
        for (answer, message) in answers.into_iter().zip(messages) {
            if let Err(error) = answer {
                last = Some(error);
                failed.push(message);
            }
        }
        let Some(error) = last else { return Ok(()) };
        self.connection = None;
        Err((error, failed))
    }

    async fn connect(&mut self) -> Result<MultiplexedConnection, RedisError> {
        if let Some(connection) = &self.connection {
            return Ok(connection.clone());
        }
        let connection = connection::open(&self.client).await?;
        Ok(self.connection.insert(connection).clone())
    }
}
