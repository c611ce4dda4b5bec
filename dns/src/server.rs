//! From a request to a reply: the directives in their order, over hickory's sockets.
//!
//! Order, as CoreDNS runs them: nsid, local, dns64, any, rewrite, autopath, acl, template, hosts, kubernetes, cache, forward,
//! whoami. The cache
//! is behind what is answered from memory, and so keeps what others say only.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Instant as StdInstant,
};

use hickory_proto::{
    op::{Edns, Message, Metadata, OpCode, Query, ResponseCode},
    rr::{
        DNSClass, Name, RData, Record, RecordType,
        rdata::{
            A, AAAA, CNAME, HINFO, PTR,
            opt::{EdnsCode, EdnsOption, NSIDPayload},
        },
    },
    serialize::binary::BinEncoder,
};
use hickory_server::{
    net::{runtime::Time, xfer::Protocol},
    server::{Request, RequestHandler, ResponseHandler, ResponseInfo},
    zone_handler::MessageResponseBuilder,
};
use parking_lot::{Mutex, RwLock};

use crate::{
    acl::{self, Acl},
    answered::{Answered, Version, Versions},
    cache::{Cache, Hit, Question, Reply},
    chaos::Chaos,
    corefile::{self, CacheDirective, Kubernetes},
    dns64::Dns64,
    failures::Failures,
    forward::{ForwardError, Forwarder, Manner, SetUpError},
    hosts, local,
    metrics::{Counted, Judged, Metrics, Observation, Place, rcode},
    querylog::{Log, Spoken},
    rewrite::{self, Asker},
    template::{Said, Template, Told},
    view::{Asked, View},
    whoami,
    zone::{self, Answer, Index, Labels, Settings},
};

/// Most names an alias chain may have.
const MAX_CHAIN: usize = 8;
/// UDP size answered with where no block has a say (DNS flag day 2020).
const UDP_SIZE: u16 = 1232;
/// Bytes a client without EDNS takes over UDP (RFC 1035).
const PLAIN_SIZE: u16 = 512;
/// Code of the option with an extended error, and the errors that access rules lead to (RFC 8914).
const EXTENDED_ERROR: u16 = 15;
const BLOCKED: u16 = 15;
const FILTERED: u16 = 17;

/// One server block at work.
#[derive(Debug)]
pub struct Block {
    zones: Vec<Labels>,
    /// The zones as counters are labelled with them.
    zone_labels: Vec<String>,
    label: String,
    hosts: Option<hosts::Table>,
    kubernetes: Option<(Kubernetes, Vec<Settings>)>,
    forward: Vec<(Labels, Vec<Labels>, Forwarder)>,
    cache: Option<Kept>,
    rotate: bool,
    most_answers: Option<usize>,
    failures: Option<Failures>,
    acls: Vec<Acl>,
    identifier: Option<NSIDPayload>,
    logs: Vec<Log>,
    buffer: u16,
    probe: Option<LoopProbe>,
    rewrites: Vec<rewrite::Rule>,
    templates: Vec<Template>,
    refuse_any: bool,
    chaos: Option<Chaos>,
    minimal: bool,
    autopath: bool,
    local: bool,
    dns64: Option<Dns64>,
    whoami: bool,
    view: Option<View>,
    port: u16,
}

/// `cache` at work.
#[derive(Debug)]
struct Kept {
    directive: CacheDirective,
    cache: Mutex<Cache>,
    /// All its zones, as counters are labelled.
    label: String,
}

/// Why a block cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum BlockError {
    /// `forward`.
    #[error("forward")]
    Forward(#[from] SetUpError),
}

/// Finds out whether forwarding leads back here (the `loop` directive).
#[derive(Debug)]
pub struct LoopProbe {
    name: Name,
    seen: AtomicU32,
}

/// What all blocks of one listener share.
#[derive(Debug)]
pub struct Server {
    blocks: Vec<Block>,
    index: Arc<RwLock<Index>>,
    own: Vec<IpAddr>,
    metrics: Metrics,
    started: StdInstant,
    answered: Answered,
    versions: Arc<Versions>,
    /// Which block a query is for depends on more than its name.
    has_views: bool,
}

/// How a question is asked, and what is to be done besides answering it.
#[derive(Debug)]
struct Asking {
    manner: Manner,
    client: SocketAddr,
    protocol: &'static str,
    /// Which of the block's zones it is in.
    zone: usize,
    /// What is to be asked for anew once it is answered.
    refresh: Vec<Query>,
    /// Options the client is sent.
    options: Vec<EdnsOption>,
    /// It is not answered.
    dropped: bool,
}

/// A reply and the directive it came from.
struct Outcome {
    reply: Reply,
    plugin: &'static str,
}

impl Block {
    /// Builds a block: reads files, opens nothing.
    ///
    /// # Errors
    /// When a file is unusable.
    pub fn new(block: &corefile::Block, metrics: &Metrics) -> Result<Self, BlockError> {
        let hosts = block.hosts.as_ref().map(|directive| hosts::Table::load(directive, metrics.clone()));
        let kubernetes = block.kubernetes.clone().map(|k| {
            let forward = k.zones.iter().filter(|z| !is_reverse(z));
            let settings = forward
                .map(|zone| Settings {
                    zone: zone.clone(),
                    ttl: k.ttl,
                    pods: k.pods,
                    verified: k.verified,
                    namespaces: k.namespaces.clone(),
                    ignore_empty: k.ignore_empty,
                    listed_only: k.reach.namespace_labels.is_some(),
                    no_endpoints: k.reach.no_endpoints,
                })
                .collect();
            (k, settings)
        });
        let mut forward = Vec::new();
        for directive in &block.forward {
            let forwarder = Forwarder::new(directive, metrics.clone())?;
            forward.push((directive.from.clone(), directive.except.clone(), forwarder));
        }
        let probe = (block.detect_loop && !forward.is_empty()).then(LoopProbe::new);
        let names = |zones: &[Labels]| -> Vec<String> { zones.iter().map(ToString::to_string).collect() };
        let cache = block.cache.clone().map(|directive| Kept {
            label: names(if directive.zones.is_empty() { &block.zones } else { &directive.zones }).join(","),
            cache: Mutex::new(Cache::new(directive.limits)),
            directive,
        });
        // What is longer than an option may be was refused.
        let identifier = block.identifier.clone().and_then(|name| NSIDPayload::new(name).ok());
        let made = Self {
            label: block.label(),
            zone_labels: names(&block.zones),
            zones: block.zones.clone(),
            failures: block.errors.as_deref().map(Failures::new),
            acls: block.acls.clone(),
            identifier,
            hosts,
            kubernetes,
            forward,
            cache,
            rotate: block.rotate,
            most_answers: block.most_answers,
            logs: block.logs.clone(),
            buffer: block.buffer,
            probe,
            rewrites: block.rewrites.clone(),
            templates: block.templates.clone(),
            refuse_any: block.refuse_any,
            chaos: block.chaos.clone(),
            minimal: block.minimal,
            autopath: block.autopath,
            local: block.local,
            dns64: block.dns64.clone(),
            whoami: block.whoami,
            view: block.view.clone(),
            port: block.port,
        };
        (0..made.zones.len()).for_each(|zone| metrics.plugins(made.place(zone), &block.plugins));
        Ok(made)
    }

    /// What is counted for a zone of the block is labelled so.
    fn place(&self, zone: usize) -> Place<'_> {
        Place {
            server: &self.label,
            zone: self.zone_labels.get(zone).map_or("", String::as_str),
            view: self.view.as_ref().map_or("", |view| &view.name),
        }
    }

    /// The cache for a name, if there is one.
    fn cache_of(&self, name: &Labels) -> Option<&Kept> {
        let inside = |zone: &Labels| name.within(zone).is_some();
        let kept = self.cache.as_ref()?;
        (kept.directive.zones.is_empty() || kept.directive.zones.iter().any(inside)).then_some(kept)
    }

    /// Whether a reply from the cluster's zone is the same every time, whoever asks, until the zone changes.
    fn repeats(&self, reply: &Reply) -> bool {
        let by_zone_alone = self.rewrites.is_empty()
            && self.templates.is_empty()
            && !self.autopath
            && self.logs.is_empty()
            && self.acls.is_empty()
            && self.identifier.is_none()
            && self.dns64.is_none()
            && self.most_answers.is_none()
            // A namespace that is listed no more is no change of its services.
            && self.kubernetes.as_ref().is_none_or(|(k, _)| k.reach.namespace_labels.is_none());
        let addresses =
            reply.answers.iter().filter(|r| matches!(r.record_type(), RecordType::A | RecordType::AAAA));
        let alias = reply.answers.iter().any(|r| r.record_type() == RecordType::CNAME);
        let certain = matches!(reply.code, ResponseCode::NoError | ResponseCode::NXDomain);
        by_zone_alone && certain && !alias && (!self.rotate || addresses.count() < 2)
    }

    /// Whether the block is for what is asked so.
    fn admits(&self, request: &Request, query: &Query) -> bool {
        let Some(view) = &self.view else { return true };
        let edns = request.edns.as_ref();
        view.admits(&Asked {
            client: request.src(),
            protocol: protocol(request),
            name: format!("{}.", query.name().to_lowercase().to_ascii().trim_end_matches('.')),
            kind: query.query_type().to_string(),
            class: query.query_class().to_string(),
            size: request.as_slice().len(),
            buffer: edns.map_or(PLAIN_SIZE, |edns| edns.max_payload()),
            dnssec: wants_dnssec(request),
            id: request.metadata.id,
            opcode: request.metadata.op_code.into(),
            port: self.port,
        })
    }

    /// The longest zone of the block a name lies in: its length, and which one it is.
    fn serves(&self, name: &Labels) -> Option<(usize, usize)> {
        let all = self.zones.iter().enumerate().filter(|(_, z)| name.within(z).is_some());
        all.map(|(at, zone)| (zone.len(), at)).max_by_key(|(len, _)| *len)
    }

    /// Whether others are asked for a name.
    fn forwards(&self, name: &Labels) -> bool {
        let inside = |zone: &Labels| name.within(zone).is_some();
        self.forward.iter().any(|(from, except, _)| inside(from) && !except.iter().any(inside))
    }

    /// What a server is sent with a query of a client, and a client with its answer.
    fn identify(&self, request: &Request) -> Option<EdnsOption> {
        request.edns.as_ref()?.option(EdnsCode::NSID)?;
        Some(EdnsOption::NSID(self.identifier.clone()?))
    }
}

impl Question {
    fn of(query: &Query, labels: &Labels, dnssec: bool) -> Self {
        Self { name: labels.to_string(), kind: query.query_type(), dnssec }
    }
}

fn is_reverse(zone: &Labels) -> bool {
    ["in-addr.arpa", "ip6.arpa"].iter().any(|suffix| zone.within(&Labels::parse(suffix)).is_some())
}

impl LoopProbe {
    fn new() -> Self {
        let text = format!("{}.{}.", rand::random::<u64>(), rand::random::<u64>());
        // Digits and dots always make a name.
        Self { name: Name::from_ascii(text).unwrap_or_else(|_| Name::root()), seen: AtomicU32::new(0) }
    }
}

impl Server {
    /// A server over the blocks of one listener. `own` are the addresses the name server is known by.
    pub fn new(blocks: Vec<Block>, index: Arc<RwLock<Index>>, own: Vec<IpAddr>, metrics: Metrics) -> Self {
        let versions = index.read().versions();
        let (answered, started) = (Answered::default(), StdInstant::now());
        let has_views = blocks.iter().any(|block| block.view.is_some());
        Self { blocks, index, own, metrics, started, answered, versions, has_views }
    }

    /// Appends the answer to a question that came over UDP and was answered before, if that still holds.
    pub fn recall(&self, question: &[u8], is_v4: bool, began: StdInstant, out: &mut Vec<u8>) -> bool {
        self.answered.recall(question, is_v4, || began.elapsed(), &self.versions, out)
    }

    /// Keeps an answer, given as `respond` says it may be kept; `version` is from before it was made.
    pub fn remember(&self, question: &[u8], answer: &[u8], version: Version, counted: Arc<Counted>) {
        self.answered.remember(question, answer, version, counted);
    }

    /// How many answers are remembered.
    #[cfg(test)]
    fn remembered(&self) -> usize {
        self.answered.count()
    }

    /// The version of the service a question is about, if it is about one.
    pub fn version_of(&self, request: &Request) -> Option<Version> {
        let [query] = request.queries.queries() else { return None };
        let labels = Labels::of(query.original().name());
        let settings = self.blocks.iter().filter_map(|block| block.kubernetes.as_ref());
        let zone = settings.flat_map(|(_, all)| all).filter(|s| labels.within(&s.zone).is_some());
        match labels.within(&zone.max_by_key(|s| s.zone.len())?.zone)? {
            [.., name, namespace, svc] if svc == "svc" => Some(self.versions.of(namespace, name)),
            _ => None,
        }
    }

    /// Sends a probe through each block that asks for it; the zones whose queries came back.
    pub async fn find_loops(&self) -> Vec<String> {
        let mut loops = Vec::new();
        for block in &self.blocks {
            let Some(probe) = &block.probe else { continue };
            for (_, _, forwarder) in &block.forward {
                // Only whether the probe comes back matters, not what is answered.
                let query = Query::query(probe.name.clone(), RecordType::HINFO);
                drop(forwarder.ask(&query, &Manner::default()).await);
            }
            if probe.seen.load(Ordering::Relaxed) > 0 {
                loops.push(block.zone_labels.join(", "));
            }
        }
        loops
    }

    /// Reads what has changed of the files that blocks name.
    pub fn refresh(&self) {
        self.blocks.iter().filter_map(|block| block.hosts.as_ref()).for_each(hosts::Table::refresh);
    }

    /// Looks after the servers that are asked and after what is told once in a while, until dropped.
    pub async fn watch(&self) {
        let forwarders = self.blocks.iter().flat_map(|block| &block.forward);
        let failures = self.blocks.iter().filter_map(|block| block.failures.as_ref());
        futures::join!(
            futures::future::join_all(forwarders.map(|(_, _, forwarder)| forwarder.watch())),
            futures::future::join_all(failures.map(Failures::watch)),
        );
    }

    async fn answer(
        &self,
        request: &Request,
        asking: &mut Asking,
    ) -> (Reply, Option<(&Block, &'static str)>) {
        let refused = |code| (plain(code), None);
        if request.metadata.op_code != OpCode::Query {
            return refused(ResponseCode::NotImp);
        }
        let [query] = request.queries.queries() else {
            return refused(ResponseCode::FormErr);
        };
        let query = query.original().clone();
        let labels = Labels::of(query.name());
        let served = self.blocks.iter().filter_map(|b| Some((b.serves(&labels)?, b)));
        let served = served.filter(|(_, b)| b.admits(request, &query));
        // Of blocks with the same zone the first one counts.
        let block = served.reduce(|best, next| if next.0.0 > best.0.0 { next } else { best });
        let Some(((_, zone), block)) = block else {
            return refused(ResponseCode::Refused);
        };
        asking.zone = zone;
        asking.options.extend(block.identify(request));
        if let Some(probe) = &block.probe
            && query.query_type() == RecordType::HINFO
            && *query.name() == probe.name
        {
            probe.seen.fetch_add(1, Ordering::Relaxed);
        }
        asking.manner = Manner {
            dnssec: request.edns.as_ref().is_some_and(|e| e.flags().dnssec_ok),
            checking_disabled: request.metadata.checking_disabled,
            stream: request.protocol() != Protocol::Udp,
            options: Vec::new(),
        };
        if let Some(local) = local::answer(&query, &labels).filter(|_| block.local) {
            if local.counted {
                self.metrics.local();
            }
            return (local.reply, Some((block, "local")));
        }
        let mut outcome = self.pass(block, request, query.clone(), asking).await;
        if let Some(dns64) = block.dns64.as_ref().filter(|d| d.concerns(&query, request.src().ip()))
            && dns64.replaces(&outcome.reply)
        {
            let mut old = query;
            old.set_query_type(RecordType::A);
            let found = self.pass(block, request, old, asking).await;
            self.metrics.translated(&block.label);
            outcome = Outcome { reply: dns64.reply(&outcome.reply, found.reply), plugin: "dns64" };
        }
        (outcome.reply, Some((block, outcome.plugin)))
    }

    /// Has a question pass through the directives behind those that answer by themselves.
    async fn pass(&self, block: &Block, request: &Request, query: Query, asking: &mut Asking) -> Outcome {
        let by = |plugin, reply| Outcome { reply, plugin };
        if block.refuse_any && query.query_type() == RecordType::ANY {
            return by("any", no_any(&query));
        }
        if let Some(answers) = block.chaos.as_ref().and_then(|chaos| chaos.answer(&query)) {
            return by("chaos", Reply { answers, ..plain(ResponseCode::NoError) });
        }
        let asker = Asker { client: request.src(), protocol: protocol(request) };
        let (query, mut undo) = rewrite::apply(&block.rewrites, &query, asker);
        asking.manner.options = std::mem::take(&mut undo.sent);
        asking.options.append(&mut undo.told);
        if query.query_class() != DNSClass::IN {
            return by("", plain(ResponseCode::Refused));
        }
        let searched = self.search_path(block, &query, request.src().ip());
        let mut outcome = self.resolve(block, &query, asking).await;
        if outcome.reply.code == ResponseCode::NXDomain
            && let Some(found) = self.walk(block, &query, asking, searched).await
        {
            self.metrics.walked(&block.label);
            outcome = found;
        }
        self.follow_aliases(block, &query, asking, &mut outcome.reply).await;
        for rule in &undo.aliases {
            self.lead_elsewhere(block, &query, asking, rule, &mut outcome.reply).await;
        }
        undo.apply(&mut outcome.reply);
        if block.minimal && !outcome.reply.is_denial() {
            outcome.reply.authorities.clear();
            outcome.reply.additionals.clear();
        }
        if block.rotate {
            rotate(&mut outcome.reply.answers);
        }
        outcome.reply.answers.truncate(block.most_answers.unwrap_or(usize::MAX));
        outcome
    }

    /// The names a pod would ask for one after the other if this one, with the first domain of its search path, does not
    /// exist: the others of the path, then the name by itself.
    fn search_path(&self, block: &Block, query: &Query, client: IpAddr) -> Vec<Name> {
        let Some((_, settings)) = block.kubernetes.as_ref().filter(|_| block.autopath) else { return vec![] };
        if !matches!(query.query_type(), RecordType::A | RecordType::AAAA) {
            return vec![];
        }
        let labels = Labels::of(query.name());
        let index = self.index.read();
        let Some(namespace) = index.pod_namespace(client) else { return vec![] };
        for zone in settings.iter().map(|s| &s.zone) {
            let Some([base @ .., own, svc]) = labels.within(zone) else { continue };
            if own != namespace || svc != "svc" || base.is_empty() {
                continue;
            }
            // A name that grows longer than DNS allows is not asked for.
            let with = |more: &[&'static str]| {
                zone.prefixed(base.iter().map(String::as_str).chain(more.iter().copied())).ok()
            };
            let bare = Labels::parse(&base.join(".")).prefixed([]).ok();
            return [with(&["svc"]), with(&[]), bare].into_iter().flatten().collect();
        }
        vec![]
    }

    /// The first of the names that exists, behind an alias from the one that was asked for.
    async fn walk(
        &self,
        block: &Block,
        query: &Query,
        asking: &mut Asking,
        names: Vec<Name>,
    ) -> Option<Outcome> {
        for name in names {
            let next = Query::query(name.clone(), query.query_type());
            let mut outcome = self.resolve(block, &next, asking).await;
            let code = outcome.reply.code;
            if code == ResponseCode::NXDomain
                || (code == ResponseCode::NoError && outcome.reply.answers.is_empty())
            {
                continue;
            }
            if code == ResponseCode::NoError {
                let ttl = outcome.reply.answers.iter().map(|r| r.ttl).min().unwrap_or(0);
                let alias = Record::from_rdata(query.name().clone(), ttl, RData::CNAME(CNAME(name)));
                outcome.reply.answers.insert(0, alias);
            }
            return Some(outcome);
        }
        None
    }

    async fn resolve(&self, block: &Block, query: &Query, asking: &mut Asking) -> Outcome {
        let labels = Labels::of(query.name());
        if let Some(outcome) = self.judged(block, query, &labels, asking) {
            return outcome;
        }
        let told = Told { metrics: &self.metrics, place: block.place(asking.zone) };
        for template in &block.templates {
            if let Said::Reply(reply) = template.answer(query, asking.client.ip(), told) {
                if let Some((code, reason)) = &template.extended {
                    asking.options.push(extended_error(*code, reason));
                }
                return Outcome { reply, plugin: "template" };
            }
        }
        if let Some(reply) = block.hosts.as_ref().and_then(|hosts| from_hosts(hosts, query, &labels)) {
            return Outcome { reply, plugin: "hosts" };
        }
        if let Some(reply) = self.cluster_reply(block, query, &labels) {
            if self.index.read().loading && reply.is_denial() {
                return Outcome { reply: plain(ResponseCode::ServFail), plugin: "kubernetes" };
            }
            return Outcome { reply, plugin: "kubernetes" };
        }
        if block.whoami && !block.forwards(&labels) {
            return Outcome {
                reply: whoami::answer(query, asking.client, asking.protocol),
                plugin: "whoami",
            };
        }
        if let Some(hit) = self.cached(block, query, &labels, asking) {
            return Outcome { reply: hit.reply, plugin: "cache" };
        }
        self.fetch(block, query, asking).await
    }

    /// What the rules of access make of a query, where they do not let it pass.
    fn judged(&self, block: &Block, query: &Query, labels: &Labels, asking: &mut Asking) -> Option<Outcome> {
        if block.acls.is_empty() {
            return None;
        }
        let place = block.place(asking.zone);
        let Some((judged, zone)) = acl::judge(&block.acls, labels, query.query_type(), asking.client.ip())
        else {
            self.metrics.let_in(place);
            return None;
        };
        self.metrics.judged(Place { zone: &zone.to_string(), ..place }, judged);
        let code = match judged {
            Judged::Blocked => {
                asking.options.push(extended_error(BLOCKED, ""));
                ResponseCode::Refused
            }
            Judged::Filtered => {
                asking.options.push(extended_error(FILTERED, ""));
                ResponseCode::NoError
            }
            Judged::Dropped => {
                asking.dropped = true;
                ResponseCode::NoError
            }
        };
        Some(Outcome { reply: plain(code), plugin: "acl" })
    }

    /// What the cache has, if there is one for the name.
    fn cached(&self, block: &Block, query: &Query, labels: &Labels, asking: &mut Asking) -> Option<Hit> {
        let kept = block.cache_of(labels)?;
        let (hit, entries) = {
            let mut cache = kept.cache.lock();
            let question = Question::of(query, labels, asking.manner.dnssec);
            (cache.get(&question, self.started.elapsed()), cache.len())
        };
        let kind = hit.as_ref().map(|hit| if hit.reply.is_denial() { "denial" } else { "success" });
        let place = Place { zone: &kept.label, ..block.place(asking.zone) };
        self.metrics.cache(place, kind, entries);
        let hit = hit?;
        if hit.stale {
            self.metrics.cache_stale(place);
        }
        if hit.refresh {
            if !hit.stale {
                self.metrics.cache_prefetched(place);
            }
            asking.refresh.push(query.clone());
        }
        Some(hit)
    }

    /// Asks other servers and keeps what they say.
    async fn fetch(&self, block: &Block, query: &Query, asking: &mut Asking) -> Outcome {
        let labels = Labels::of(query.name());
        let Some(kept) = block.cache_of(&labels) else {
            return self.ask_others(block, query, asking).await;
        };
        let question = Question::of(query, &labels, asking.manner.dnssec);
        let stale = || kept.cache.lock().get_stale(&question, self.started.elapsed());
        let place = Place { zone: &kept.label, ..block.place(asking.zone) };
        let old = |reply| {
            self.metrics.cache_stale(place);
            Outcome { reply, plugin: "cache" }
        };
        let within = kept.directive.limits.verify_within.filter(|_| stale().is_some());
        let asked = self.ask_others(block, query, asking);
        let outcome = match within {
            None => asked.await,
            Some(within) => match (tokio::time::timeout(within, asked).await, stale()) {
                (Ok(outcome), _) => outcome,
                (Err(_late), Some(reply)) => {
                    asking.refresh.push(query.clone());
                    return old(reply);
                }
                (Err(_late), None) => self.ask_others(block, query, asking).await,
            },
        };
        let stale = stale().filter(|_| outcome.reply.code == ResponseCode::ServFail);
        self.keep(kept, question, &labels, &outcome.reply, place);
        stale.map_or(outcome, old)
    }

    /// Asks other servers anew, for those who ask later.
    async fn refetch(&self, block: &Block, query: &Query, asking: &Asking) {
        let labels = Labels::of(query.name());
        let Some(kept) = block.cache_of(&labels) else { return };
        let question = Question::of(query, &labels, asking.manner.dnssec);
        let outcome = self.ask_others(block, query, asking).await;
        let place = Place { zone: &kept.label, ..block.place(asking.zone) };
        self.keep(kept, question, &labels, &outcome.reply, place);
    }

    fn keep(&self, kept: &Kept, question: Question, labels: &Labels, reply: &Reply, place: Place<'_>) {
        let not = if reply.is_denial() { &kept.directive.no_denial } else { &kept.directive.no_success };
        if not.iter().any(|zone| labels.within(zone).is_some()) {
            return;
        }
        let mut cache = kept.cache.lock();
        cache.put(question, reply, self.started.elapsed());
        self.metrics.cache_evicted(place, cache.take_evicted());
    }

    /// Follows the `forward` directives for a name, in order, until one does not pass on.
    async fn ask_others(&self, block: &Block, query: &Query, asking: &Asking) -> Outcome {
        let labels = Labels::of(query.name());
        let inside = |zone: &Labels| labels.within(zone).is_some();
        let fits = |(from, except, _): &&(Labels, Vec<Labels>, Forwarder)| {
            inside(from) && !except.iter().any(inside)
        };
        let mut all = block.forward.iter().filter(fits).peekable();
        while let Some((_, _, forwarder)) = all.next() {
            let reply = match forwarder.ask(query, &asking.manner).await {
                Ok(message) if forwarder.passes_on(&message) && all.peek().is_some() => continue,
                Ok(message) => from_message(message),
                Err(error) => forward_failed(block, query, &error),
            };
            return Outcome { reply, plugin: "forward" };
        }
        Outcome { reply: plain(ResponseCode::Refused), plugin: "" }
    }

    fn cluster_reply(&self, block: &Block, query: &Query, labels: &Labels) -> Option<Reply> {
        let (directive, settings) = block.kubernetes.as_ref()?;
        let falls_through = || directive.fallthrough.iter().any(|z| labels.within(z).is_some());
        if directive.zones.iter().any(|z| is_reverse(z) && labels.within(z).is_some()) {
            let index = self.index.read();
            let address =
                query.name().parse_arpa_name().ok().filter(|n| n.prefix_len() == n.max_prefix_len());
            let first = settings.first()?;
            let pointers =
                address.map(|net| first.pointers(&index, query.name(), net.addr())).unwrap_or_default();
            return match (pointers.is_empty(), falls_through()) {
                (true, true) => None,
                (true, false) => Some(denied(ResponseCode::NXDomain, first)),
                (false, _) if query.query_type() == RecordType::PTR => {
                    Some(authoritative(pointers, Vec::new()))
                }
                (false, _) => Some(denied(ResponseCode::NoError, first)),
            };
        }
        let index = self.index.read();
        let (zone, answer) = settings
            .iter()
            .filter_map(|s| Some((s, zone::answer(&index, s, query.name(), query.query_type(), &self.own)?)))
            .max_by_key(|(s, _)| s.zone.len())?;
        match answer {
            Answer::Records { answers, additionals } => Some(authoritative(answers, additionals)),
            Answer::NoData => Some(denied(ResponseCode::NoError, zone)),
            Answer::NxDomain if falls_through() => None,
            Answer::NxDomain => Some(denied(ResponseCode::NXDomain, zone)),
        }
    }

    /// Has an alias of the answer lead where a rule says, to what is found there.
    async fn lead_elsewhere(
        &self,
        block: &Block,
        query: &Query,
        asking: &mut Asking,
        rule: &rewrite::NameRule,
        reply: &mut Reply,
    ) {
        let led = reply.answers.iter().enumerate().find_map(|(at, record)| match &record.data {
            RData::CNAME(target) => {
                let to = rule.apply(&target.0.to_lowercase().to_ascii())?;
                let mut name = Name::from_ascii(to).ok()?;
                name.set_fqdn(true);
                Some((at, name))
            }
            _ => None,
        });
        let Some((at, name)) = led else { return };
        let next = Query::query(name.clone(), query.query_type());
        let found = Box::pin(self.resolve(block, &next, asking)).await.reply;
        reply.answers[at].data = RData::CNAME(CNAME(name));
        reply.answers.truncate(at + 1);
        reply.answers.extend(found.answers);
    }

    /// Resolves where an alias of the cluster zone leads, so that clients get addresses in one go.
    async fn follow_aliases(&self, block: &Block, query: &Query, asking: &mut Asking, reply: &mut Reply) {
        if !matches!(query.query_type(), RecordType::A | RecordType::AAAA) {
            return;
        }
        for _ in 0..MAX_CHAIN {
            let Some(RData::CNAME(target)) = reply.answers.last().map(|r| r.data.clone()) else {
                return;
            };
            let next = Query::query(target.0.clone(), query.query_type());
            let outcome = Box::pin(self.resolve(block, &next, asking)).await;
            if outcome.reply.answers.is_empty() {
                if outcome.reply.code == ResponseCode::NXDomain {
                    reply.code = ResponseCode::NXDomain;
                }
                return;
            }
            reply.answers.extend(outcome.reply.answers);
        }
    }

    fn observe(
        &self,
        request: &Request,
        reply: &Reply,
        by: Option<(Place<'_>, &'static str)>,
        answer_size: usize,
        took: std::time::Duration,
    ) {
        let dropped = Place { server: "", zone: "dropped", view: "" };
        let (place, plugin) = by.unwrap_or((dropped, ""));
        let kind = request.queries.queries().first().map_or(RecordType::ZERO, |q| q.query_type());
        self.metrics.observe(&Observation {
            place,
            protocol: protocol(request),
            family: if request.src().is_ipv4() { "1" } else { "2" },
            kind: &type_label(kind),
            dnssec: wants_dnssec(request),
            rcode: &rcode(reply.code),
            plugin,
            sizes: (request.as_slice().len(), answer_size),
            took,
        });
    }
}

/// What is counted of a query over UDP and TCP; TLS is one way of the latter.
fn protocol(request: &Request) -> &'static str {
    if request.protocol() == Protocol::Udp { "udp" } else { "tcp" }
}

fn wants_dnssec(request: &Request) -> bool {
    request.edns.as_ref().is_some_and(|edns| edns.flags().dnssec_ok)
}

fn forward_failed(block: &Block, query: &Query, error: &ForwardError) -> Reply {
    // A client that is told so goes elsewhere.
    let code = match error {
        ForwardError::Overloaded(_) => ResponseCode::Refused,
        _ => ResponseCode::ServFail,
    };
    if let Some(failures) = &block.failures {
        let cause = std::error::Error::source(error).map(|cause| format!(": {cause}")).unwrap_or_default();
        let (name, kind) = (query.name().to_ascii(), query.query_type().to_string());
        failures.tell(code.into(), &name, &kind, &format!("{error}{cause}"));
    }
    plain(code)
}

/// An option with an extended error (RFC 8914, 2).
fn extended_error(code: u16, reason: &str) -> EdnsOption {
    EdnsOption::Unknown(EXTENDED_ERROR, [&code.to_be_bytes()[..], reason.as_bytes()].concat())
}

impl Server {
    /// Answers a request. The counters are told if the same request may be answered the same way until its service
    /// changes: nothing but the zone had a say, and nothing is left to chance.
    pub async fn respond<R: ResponseHandler>(
        &self,
        request: &Request,
        handle: &mut R,
    ) -> Option<Arc<Counted>> {
        self.respond_with(request, handle).await.1
    }

    async fn respond_with<R: ResponseHandler>(
        &self,
        request: &Request,
        handle: &mut R,
    ) -> (ResponseInfo, Option<Arc<Counted>>) {
        let started = StdInstant::now();
        let mut asking = Asking::of(request);
        let (reply, by) = if request.edns.as_ref().is_some_and(|e| e.version() > 0) {
            (plain(ResponseCode::BADVERS), None)
        } else {
            self.answer(request, &mut asking).await
        };
        let mut metadata = Metadata::response_from_request(&request.metadata);
        metadata.response_code = reply.code;
        metadata.authoritative = reply.authoritative;
        metadata.recursion_available = by.is_some_and(|(b, _)| !b.forward.is_empty());
        let edns = request.edns.as_ref().map(|asked| {
            let mut edns = Edns::new();
            let most = by.map_or(UDP_SIZE, |(block, _)| block.buffer);
            edns.set_max_payload(asked.max_payload().clamp(PLAIN_SIZE, most));
            edns.set_dnssec_ok(asked.flags().dnssec_ok);
            edns.set_rcode_high(reply.code.high());
            asking.options.iter().for_each(|option| edns.options_mut().insert(option.clone()));
            edns
        });
        let placed = by.map(|(block, plugin)| (block.place(asking.zone), plugin));
        if asking.dropped {
            self.observe(request, &reply, placed, 0, started.elapsed());
            return (nothing(request), None);
        }
        let build = || {
            let mut builder = MessageResponseBuilder::from_message_request(request);
            if let Some(edns) = &edns {
                builder.edns(edns);
            }
            builder.build(metadata, &reply.answers, &reply.authorities, &[], &reply.additionals)
        };
        // What is sent is not told to us: it is encoded once more for its size.
        let mut bytes = Vec::with_capacity(usize::from(PLAIN_SIZE));
        let mut encoder = BinEncoder::new(&mut bytes);
        encoder.set_max_size(match request.protocol() {
            Protocol::Udp => edns.as_ref().map_or(PLAIN_SIZE, Edns::max_payload),
            _ => u16::MAX,
        });
        let size = build().destructive_emit(&mut encoder).map_or(0, |_| encoder.len());
        self.observe(request, &reply, placed, size, started.elapsed());
        let repeats = |block: &Block| !self.has_views && block.repeats(&reply);
        let counted = by.filter(|(block, plugin)| *plugin == "kubernetes" && repeats(block)).and_then(
            |(block, plugin)| {
                let kind = request.queries.queries().first()?.query_type();
                // Rare types are not worth it, and there are many.
                if !matches!(kind, RecordType::A | RecordType::AAAA | RecordType::SRV | RecordType::HTTPS) {
                    return None;
                }
                let (place, code) = (block.place(asking.zone), reply.code);
                let dnssec = asking.manner.dnssec;
                let make = || self.metrics.counted(place, &type_label(kind), dnssec, &rcode(code), plugin);
                Some(self.answered.counters(place.zone, kind, code, dnssec, make))
            },
        );
        if let Some((block, _)) = by.filter(|(block, _)| !block.logs.is_empty()) {
            self.write(block, request, &reply, metadata, edns.as_ref(), started.elapsed());
        }
        let sent = handle.send_response(build()).await;
        // The client has its answer; what it was given is asked for anew before the next one comes.
        for query in std::mem::take(&mut asking.refresh) {
            if let Some((block, _)) = by {
                self.refetch(block, &query, &asking).await;
            }
        }
        match sent {
            Ok(info) => (info, counted),
            Err(error) => {
                tracing::debug!(client = %request.src(), %error, "response not sent");
                (nothing(request), None)
            }
        }
    }
}

impl Server {
    /// Writes the lines about a query that its block wants.
    fn write(
        &self,
        block: &Block,
        request: &Request,
        reply: &Reply,
        metadata: Metadata,
        edns: Option<&Edns>,
        took: std::time::Duration,
    ) {
        let Some(query) = request.queries.queries().first().map(|query| query.original()) else { return };
        let is_udp = request.protocol() == Protocol::Udp;
        let most = edns.map_or(PLAIN_SIZE, Edns::max_payload);
        let mut message = Message::response(metadata.id, metadata.op_code);
        message.metadata = metadata;
        message.add_query(query.clone());
        message.add_answers(reply.answers.iter().cloned());
        message.add_authorities(reply.authorities.iter().cloned());
        message.add_additionals(reply.additionals.iter().cloned());
        if let Some(edns) = edns {
            message.set_edns(edns.clone());
        }
        // What does not make a message is not sent either.
        let whole = message.to_vec().map_or(0, |bytes| bytes.len());
        let is_cut = is_udp && whole > usize::from(most);
        let flags = [
            ("qr", true),
            ("aa", metadata.authoritative),
            ("tc", is_cut),
            ("rd", metadata.recursion_desired),
            ("ra", metadata.recursion_available),
            ("ad", metadata.authentic_data),
            ("cd", metadata.checking_disabled),
        ];
        let flags: Vec<&str> = flags.into_iter().filter(|(_, set)| *set).map(|(name, _)| name).collect();
        let name = Labels::of(query.name());
        let said = Spoken {
            client: request.src(),
            protocol: if is_udp { "udp" } else { "tcp" },
            id: metadata.id,
            opcode: metadata.op_code.into(),
            name: &name,
            kind: &query.query_type().to_string(),
            class: &query.query_class().to_string(),
            size: request.as_slice().len(),
            dnssec: request.edns.as_ref().is_some_and(|edns| edns.flags().dnssec_ok),
            buffer: request.edns.as_ref().map_or(PLAIN_SIZE, Edns::max_payload),
            code: reply.code,
            code_name: &rcode(reply.code),
            has_answers: !reply.answers.is_empty(),
            flags: &flags.join(","),
            answer_size: if is_cut { whole.min(usize::from(most)) } else { whole },
            took,
        };
        for line in block.logs.iter().filter_map(|log| log.line(&said)) {
            tracing::info!("{line}");
        }
    }
}

#[async_trait::async_trait]
impl RequestHandler for Server {
    async fn handle_request<R: ResponseHandler, T: Time>(
        &self,
        request: &Request,
        mut handle: R,
    ) -> ResponseInfo {
        self.respond_with(request, &mut handle).await.0
    }
}

/// What is said of an answer that was not sent.
fn nothing(request: &Request) -> ResponseInfo {
    let mut metadata = Metadata::response_from_request(&request.metadata);
    metadata.response_code = ResponseCode::ServFail;
    hickory_proto::op::Header { metadata, counts: Default::default() }.into()
}

impl Asking {
    fn of(request: &Request) -> Self {
        Self {
            manner: Manner::default(),
            client: request.src(),
            protocol: protocol(request),
            zone: 0,
            refresh: Vec::new(),
            options: Vec::new(),
            dropped: false,
        }
    }
}

fn plain(code: ResponseCode) -> Reply {
    Reply { code, answers: vec![], authorities: vec![], additionals: vec![], authoritative: false }
}

/// What RFC 8482 has servers say to questions for all types.
fn no_any(query: &Query) -> Reply {
    let hint = HINFO::new("ANY obsoleted".to_owned(), "See RFC 8482".to_owned());
    authoritative(vec![Record::from_rdata(query.name().clone(), 8482, RData::HINFO(hint))], vec![])
}

fn authoritative(answers: Vec<Record>, additionals: Vec<Record>) -> Reply {
    Reply { answers, additionals, authoritative: true, ..plain(ResponseCode::NoError) }
}

fn denied(code: ResponseCode, zone: &Settings) -> Reply {
    Reply { authorities: zone.soa().into_iter().collect(), authoritative: true, ..plain(code) }
}

fn from_message(message: Message) -> Reply {
    Reply {
        code: message.metadata.response_code,
        answers: message.answers,
        authorities: message.authorities,
        additionals: message.additionals,
        authoritative: message.metadata.authoritative,
    }
}

/// What the hosts have for a query: `None` goes on to the next directive.
fn from_hosts(table: &hosts::Table, query: &Query, labels: &Labels) -> Option<Reply> {
    let (directive, hosts) = (table.directive(), table.current());
    let inside = |zone: &Labels| labels.within(zone).is_some();
    if !directive.zones.iter().any(inside) {
        return None;
    }
    let kind = query.query_type();
    if directive.fallthrough_unsupported
        && !matches!(kind, RecordType::A | RecordType::AAAA | RecordType::PTR)
    {
        return None;
    }
    let record = |data| Record::from_rdata(query.name().clone(), directive.ttl, data);
    let answers: Option<Vec<Record>> = if kind == RecordType::PTR {
        let address = query.name().parse_arpa_name().ok().map(|net| net.addr());
        let names = address.into_iter().flat_map(|address| hosts.names(address).to_vec());
        let records = names.filter_map(|name| Some(record(RData::PTR(PTR(Name::from_ascii(name).ok()?)))));
        Some(records.collect::<Vec<_>>()).filter(|records| !records.is_empty())
    } else {
        let of = |address: &IpAddr| match (address, kind) {
            (IpAddr::V4(v4), RecordType::A) => Some(record(RData::A(A(*v4)))),
            (IpAddr::V6(v6), RecordType::AAAA) => Some(record(RData::AAAA(AAAA(*v6)))),
            _ => None,
        };
        hosts.addresses(labels).map(|addresses| addresses.iter().filter_map(of).collect())
    };
    match answers {
        // The name is ours: with other types there is nothing.
        Some(answers) => Some(authoritative(answers, Vec::new())),
        None if directive.fallthrough.iter().any(inside) => None,
        // There is no SOA for a denial, so it is a failure, as in CoreDNS.
        None => Some(plain(ResponseCode::ServFail)),
    }
}

/// Turns the addresses by a random step; aliases stay in front.
fn rotate(answers: &mut [Record]) {
    let first = answers.iter().position(|r| matches!(r.record_type(), RecordType::A | RecordType::AAAA));
    if let Some(addresses) = first.and_then(|at| answers.get_mut(at..)).filter(|a| a.len() > 1) {
        let step = rand::random_range(0..addresses.len());
        addresses.rotate_left(step);
    }
}

/// The type label; rare types share one, so that clients cannot make metrics grow.
fn type_label(kind: RecordType) -> String {
    match kind {
        RecordType::A
        | RecordType::AAAA
        | RecordType::CNAME
        | RecordType::HTTPS
        | RecordType::MX
        | RecordType::NS
        | RecordType::PTR
        | RecordType::SOA
        | RecordType::SRV
        | RecordType::TXT
        | RecordType::DS
        | RecordType::DNSKEY
        | RecordType::SVCB
        | RecordType::NAPTR
        | RecordType::ANY => kind.to_string(),
        _ => "other".into(),
    }
}

#[cfg(test)]
mod tests;
