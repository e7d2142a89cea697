//! A node's certificate is replaced before it ends.
//!
//! Any member can sign, so any member is asked, and the first that does is as good as all others. When none answers (this
//! node is alone, or was away so long that its certificate has ended and nobody speaks to it), the node signs for itself:
//! its own catalog has the authority as well. A node that was removed is told so by those whom it asks.
//!
//! A machine whose clock was far ahead may have made itself a certificate that is not good yet once the clock is right. That
//! is as good as ended, and replaced at once.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context, ensure};
use cluster::ids::NodeId;
use proto::cluster::RenewRequest;
use proto::cluster::cluster_client::ClusterClient;
use rustls::pki_types::CertificateDer;
use tokio_util::sync::CancellationToken;

use super::Member;
use crate::authority::SigningRequest;
use crate::credentials::{Credentials, TlsDir};
use crate::rpc::peers::Purpose;

/// How long a member may take to sign.
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// The longest wait before the certificate is looked at again: clocks are set, and machines sleep.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// Between two tries. There is a third of the certificate's life for them.
const RETRY: Duration = Duration::from_secs(30);

/// Renews the certificate whenever that is due, until `stop`.
pub(super) async fn run(member: Arc<Member>, tls: TlsDir, stop: CancellationToken) {
    loop {
        let facts = member.tls().facts();
        let now = SystemTime::now();
        let wait = match facts.renew_at().duration_since(now) {
            Ok(wait) if !wait.is_zero() && now >= facts.not_before => wait.min(LOOK_EVERY),
            _ => match renew(&member, &tls).await {
                Ok(until) => {
                    let until = humantime::format_rfc3339_seconds(until).to_string();
                    tracing::info!(until, "this node has a new certificate");
                    // It may be due again at once, when the clocks differ by more than its life.
                    RETRY.min(pause_within(member.tls().facts().not_after))
                }
                Err(error) => {
                    let until = humantime::format_rfc3339_seconds(facts.not_after).to_string();
                    tracing::warn!(
                        until,
                        error = format!("{error:#}"),
                        "renew this node's certificate"
                    );
                    RETRY.min(pause_within(facts.not_after))
                }
            },
        };
        if stop.run_until_cancelled(tokio::time::sleep(wait)).await.is_none() {
            return;
        }
    }
}

/// Several tries within what is left of a certificate's life, and not all at once.
fn pause_within(not_after: SystemTime) -> Duration {
    let left = not_after.duration_since(SystemTime::now()).unwrap_or_default();
    (left / 4).max(Duration::from_secs(1))
}

/// Gets a certificate, keeps it, and shows it from now on. Returns when it ends.
async fn renew(member: &Member, tls: &TlsDir) -> anyhow::Result<SystemTime> {
    let present = tls.load()?;
    let request = present.key().request()?;
    let certificate = match ask_others(member, &request).await {
        Some(certificate) => certificate,
        None => sign_oneself(member, &request)?,
    };
    let authority = present.authority().clone();
    let renewed = Credentials::new(tls.key()?, certificate, authority)?;
    ensure!(renewed.facts().node_id == member.id(), "the new certificate is for another node");
    let now = SystemTime::now();
    ensure!(
        renewed.facts().is_good_at(now),
        "the new certificate is not good at this time: are the clocks of all machines right?"
    );
    ensure!(
        renewed.not_after() > present.not_after() || !present.facts().is_good_at(now),
        "the new certificate ends no later than the present one: are the clocks of all machines right?"
    );
    tls.store(renewed.certificate(), renewed.authority())?;
    member.tls().renew(&renewed)?;
    Ok(renewed.not_after())
}

/// The answer of the first member that gives one.
async fn ask_others(member: &Member, request: &[u8]) -> Option<CertificateDer<'static>> {
    let mut others = member.peers().known();
    others.retain(|node| member.observer().is_up(*node));
    fastrand::shuffle(&mut others);
    for node in others {
        match tokio::time::timeout(ANSWER_MAX, ask(member, node, request)).await {
            Ok(Ok(certificate)) => return Some(certificate),
            Ok(Err(error)) => {
                tracing::debug!(%node, error = format!("{error:#}"), "ask for a new certificate");
            }
            Err(_) => tracing::debug!(%node, "no new certificate in time"),
        }
    }
    None
}

async fn ask(
    member: &Member,
    node: NodeId,
    request: &[u8],
) -> anyhow::Result<CertificateDer<'static>> {
    let channel = member.peers().channel(node, Purpose::Cluster)?;
    let request = RenewRequest {
        envelope: Some(member.peers().local().envelope_to(node)),
        signing_request: request.to_vec().into(),
    };
    let reply = ClusterClient::new(channel).renew(request).await?.into_inner();
    Ok(CertificateDer::from(reply.certificate.to_vec()))
}

fn sign_oneself(member: &Member, request: &[u8]) -> anyhow::Result<CertificateDer<'static>> {
    let request = SigningRequest::parse(request)?;
    let known = member.is_member(member.id(), request.public_key_hash())?;
    ensure!(
        known,
        "no other member answers, and this node's catalog does not count it as a member"
    );
    member.certify(&request, member.id()).context("no other member answers")
}
