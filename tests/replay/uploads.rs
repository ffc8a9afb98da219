//! Uploads have other names today than when they were recorded.

use std::collections::BTreeMap;

use super::recording::Exchange;
use super::wire::Answer;

/// The name of each upload, by the one it was recorded under.
#[derive(Default)]
pub struct Uploads(BTreeMap<String, String>);

const UUID: &str = "Docker-Upload-UUID";

impl Uploads {
    /// A recorded target as it has to be asked for today.
    pub fn ours(&self, target: &str) -> String {
        let mut target = target.to_owned();
        for (theirs, ours) in &self.0 {
            target = target.replace(theirs, ours);
        }
        target
    }

    /// The answer with recorded names, once those of a new upload are known.
    pub fn recorded(&mut self, exchange: &Exchange, mut answer: Answer) -> Answer {
        if let (Some(theirs), Some(ours)) = (exchange.response.header(UUID), answer.header(UUID)) {
            self.0.entry(theirs.to_owned()).or_insert_with(|| ours.to_owned());
        }
        for (_, value) in &mut answer.headers {
            for (theirs, ours) in &self.0 {
                *value = value.replace(ours, theirs);
            }
        }
        answer
    }
}
