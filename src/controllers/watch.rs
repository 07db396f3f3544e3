//! One stream of watch events over one or several namespaces.
//!
//! The store takes `InitDone` for "this is everything": fed by one watch per
//! namespace it would drop the objects of the others at each re-list. So the
//! watches are merged into what a single watch over all of them would say: one
//! initial list when all are listed, then single changes. A single watch goes
//! the same way: kube hands out a re-list page by page and fills the store only
//! after the last, so that what is new on an earlier page would be looked up in
//! the old store, not be found, and never be looked at again.

use std::collections::HashMap;

use futures::stream::{self, BoxStream};
use futures::{Stream, StreamExt};
use kube::Api;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};

use crate::api::{Envelope, Kind};

type Watched<K> = Result<Event<Envelope<K>>, watcher::Error>;

/// The events of all `apis`, without what nobody reads of the objects.
pub fn all<K: Kind>(apis: Vec<Api<Envelope<K>>>) -> BoxStream<'static, Watched<K>> {
    let watch = |api| watcher(api, watcher::Config::default()).default_backoff().modify(Envelope::drop_spent).boxed();
    merge(apis.into_iter().map(watch).collect()).boxed()
}

fn merge<K: Kind>(watches: Vec<BoxStream<'static, Watched<K>>>) -> impl Stream<Item = Watched<K>> + Send {
    let mut merger = Merger { parts: watches.iter().map(|_| Part::default()).collect(), listed: false };
    let numbered = watches.into_iter().enumerate().map(|(index, watch)| watch.map(move |event| (index, event)).boxed());
    stream::select_all(numbered).flat_map(move |(index, event)| {
        stream::iter(match event {
            Ok(event) => merger.merge(index, event).into_iter().map(Ok).collect(),
            Err(error) => vec![Err(error)],
        })
    })
}

struct Merger<K> {
    parts: Vec<Part<K>>,
    /// True once every namespace was listed, and the whole list was passed on.
    listed: bool,
}

/// What one namespace holds, by UID. Only who the objects are is kept after they were passed on.
struct Part<K> {
    objects: HashMap<String, Envelope<K>>,
    listing: HashMap<String, Envelope<K>>,
    listed: bool,
}

impl<K> Default for Part<K> {
    fn default() -> Part<K> {
        Part { objects: HashMap::new(), listing: HashMap::new(), listed: false }
    }
}

impl<K: Kind> Merger<K> {
    fn merge(&mut self, index: usize, event: Event<Envelope<K>>) -> Vec<Event<Envelope<K>>> {
        let whole_list_passed_on = self.listed;
        let Some(part) = self.parts.get_mut(index) else { return Vec::new() };
        match event {
            Event::Init => part.listing.clear(),
            Event::InitApply(object) => {
                part.listing.insert(object.uid().to_owned(), object);
            }
            Event::InitDone if whole_list_passed_on => {
                let fresh = std::mem::take(&mut part.listing);
                let identities = fresh.iter().map(|(uid, object)| (uid.clone(), object.identity())).collect();
                let before = std::mem::replace(&mut part.objects, identities);
                let gone = before.into_iter().filter(|(uid, _)| !fresh.contains_key(uid)).map(|(_, object)| Event::Delete(object));
                let mut events: Vec<_> = gone.collect();
                events.extend(fresh.into_values().map(Event::Apply));
                return events;
            }
            Event::InitDone => {
                part.objects = std::mem::take(&mut part.listing);
                part.listed = true;
                return self.pass_on_whole_list();
            }
            Event::Apply(object) => {
                let kept = if whole_list_passed_on { object.identity() } else { object.clone() };
                part.objects.insert(object.uid().to_owned(), kept);
                return if whole_list_passed_on { vec![Event::Apply(object)] } else { Vec::new() };
            }
            Event::Delete(object) => {
                part.objects.remove(object.uid());
                return if whole_list_passed_on { vec![Event::Delete(object)] } else { Vec::new() };
            }
        }
        Vec::new()
    }

    fn pass_on_whole_list(&mut self) -> Vec<Event<Envelope<K>>> {
        if !self.parts.iter().all(|part| part.listed) {
            return Vec::new();
        }
        self.listed = true;
        let mut events = vec![Event::Init];
        for object in self.parts.iter_mut().flat_map(|part| part.objects.values_mut()) {
            let identity = object.identity();
            events.push(Event::InitApply(std::mem::replace(object, identity)));
        }
        events.push(Event::InitDone);
        events
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::v1alpha1::Orchestration;

    fn object(name: &str) -> Envelope<Orchestration> {
        let text = format!(r#"{{"metadata":{{"name":"{name}","namespace":"n","uid":"uid-{name}"}},"spec":{{}}}}"#);
        serde_json::from_str(&text).unwrap()
    }

    fn say(events: &[Event<Envelope<Orchestration>>]) -> Vec<String> {
        let mut said: Vec<String> = events
            .iter()
            .map(|event| match event {
                Event::Init => "init".to_owned(),
                Event::InitApply(object) => format!("listed {}", object.name()),
                Event::InitDone => "done".to_owned(),
                Event::Apply(object) => format!("applied {}", object.name()),
                Event::Delete(object) => format!("deleted {}", object.name()),
            })
            .collect();
        said.sort();
        said
    }

    #[test]
    fn nothing_is_passed_on_before_every_namespace_was_listed() {
        let mut merger = Merger { parts: vec![Part::default(), Part::default()], listed: false };
        let mut all = Vec::new();
        for (index, event) in [
            (0, Event::Init),
            (0, Event::InitApply(object("a"))),
            (0, Event::InitDone),
            (0, Event::Apply(object("b"))),
            (1, Event::Init),
            (1, Event::InitApply(object("c"))),
        ] {
            all.extend(merger.merge(index, event));
        }
        assert!(all.is_empty());
        assert_eq!(say(&merger.merge(1, Event::InitDone)), ["done", "init", "listed a", "listed b", "listed c"]);
    }

    #[test]
    fn a_re_list_of_one_namespace_says_nothing_about_the_other() {
        let mut merger = Merger { parts: vec![Part::default(), Part::default()], listed: false };
        for (index, name) in [(0, "a"), (1, "c")] {
            for event in [Event::Init, Event::InitApply(object(name)), Event::InitDone] {
                merger.merge(index, event);
            }
        }
        merger.merge(0, Event::Init);
        merger.merge(0, Event::InitApply(object("d")));
        assert_eq!(say(&merger.merge(0, Event::InitDone)), ["applied d", "deleted a"]);
        assert_eq!(say(&merger.merge(1, Event::Delete(object("c")))), ["deleted c"]);
    }
}
