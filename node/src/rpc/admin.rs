//! What an operator asks of a node: who are you, found a cluster, join one, make tokens.
//!
//! The service is there from the first moment of a process on, before the node belongs to anything, behind a socket that
//! only the node's owner can open ([`super::local`]). What it changes is written down with the user who asked for it.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::anyhow;
use cluster::catalog;
use cluster::command::{Action, Refusal, Reply};
use cluster::ids::{SecretHash, TokenId};
use cluster::tables::nodes::Role;
use proto::admin::admin_client::AdminClient;
use proto::admin::admin_server::Admin;
use proto::admin::{
    CreateTokenReply, CreateTokenRequest, IdentifyReply, IdentifyRequest, InitReply, InitRequest,
    JoinReply, JoinRequest, ListTokensReply, ListTokensRequest, RevokeTokenReply,
    RevokeTokenRequest, Token,
};
use tonic::transport::Channel;
use tonic::transport::server::UdsConnectInfo;
use tonic::{Code, Extensions, Request, Response, Status};

use super::join::roles_of;
use crate::authority::fingerprint;
use crate::founding::NO_CLUSTER;
use crate::identity::random;
use crate::raft::ProposeError;
use crate::run::{Daemon, Member};
use crate::token::JoinToken;
use crate::{founding, joining};

/// The longest answer: founding or joining, with all their own deadlines inside, so that the node's own words arrive.
const ANSWER_MAX: Duration = Duration::from_secs(90);

/// Where to look when nothing can be decided.
pub(super) const LOOK: &str = "; `reelraft cluster doctor` says who is missing";

/// What a node says that is about to be a member again.
const STARTING: &str = "this node is starting";

/// The server's side.
pub struct AdminService {
    daemon: Arc<Daemon>,
}

impl AdminService {
    #[must_use]
    pub fn new(daemon: Arc<Daemon>) -> Self {
        Self { daemon }
    }

    fn member(&self) -> Result<Arc<Member>, Status> {
        member_of(&self.daemon)
    }
}

/// What the node is as a member. It answers before its databases are open: whoever waits for a node that is started again
/// must not be told that it belongs to nothing.
pub(super) fn member_of(daemon: &Daemon) -> Result<Arc<Member>, Status> {
    daemon.member().ok_or_else(|| match daemon.identity() {
        Some(_) => Status::unavailable(STARTING),
        None => Status::failed_precondition(NO_CLUSTER),
    })
}

/// Who asks, for the audit log.
pub(super) fn actor(extensions: &Extensions, member: &Member) -> String {
    let user = extensions.get::<UdsConnectInfo>().and_then(|info| info.peer_cred);
    match user {
        Some(user) => format!("user {} on node {}", user.uid(), member.id()),
        None => format!("somebody on node {}", member.id()),
    }
}

/// Has a command applied, and turns what came of it into a refusal if it was none.
pub(super) async fn propose(member: &Member, action: Action) -> Result<(), Status> {
    match refusal_of(member, action).await? {
        None => Ok(()),
        Some(refusal) => Err(refused(&refusal)),
    }
}

/// Has a command applied. Returns why it was refused, if it was.
pub(super) async fn refusal_of(member: &Member, action: Action) -> Result<Option<Refusal>, Status> {
    let (reply, _) = member.consensus().propose(action).await.map_err(|error| {
        let hint = if let ProposeError::NoLeader(_) = error { LOOK } else { "" };
        Status::aborted(format!("the cluster did not take it; this may be repeated: {error}{hint}"))
    })?;
    Ok(if let Reply::Refused(refusal) = reply { Some(refusal) } else { None })
}

pub(super) fn refused(refusal: &Refusal) -> Status {
    let text = refusal.to_string();
    if *refusal == Refusal::TokenUnknown {
        Status::not_found(text)
    } else if let Refusal::Invalid { .. } = refusal {
        Status::invalid_argument(text)
    } else {
        Status::failed_precondition(text)
    }
}

/// Runs to its end even when the operator goes away: half a node is worse than a late answer.
async fn to_the_end<T: Send + 'static>(
    work: impl Future<Output = Result<T, Status>> + Send + 'static,
) -> Result<T, Status> {
    tokio::spawn(work).await.unwrap_or_else(|_| Err(Status::internal("the node is stopping")))
}

#[tonic::async_trait]
impl Admin for AdminService {
    async fn identify(
        &self,
        _: Request<IdentifyRequest>,
    ) -> Result<Response<IdentifyReply>, Status> {
        Ok(Response::new(self.daemon.identify()))
    }

    async fn init(&self, _: Request<InitRequest>) -> Result<Response<InitReply>, Status> {
        let daemon = self.daemon.clone();
        let identity =
            to_the_end(async move { founding::init(&daemon).await.map_err(Status::from) }).await?;
        Ok(Response::new(InitReply {
            cluster_id: identity.cluster_id.to_vec().into(),
            node_id: identity.node_id.0,
        }))
    }

    async fn join(&self, request: Request<JoinRequest>) -> Result<Response<JoinReply>, Status> {
        let (daemon, asked) = (self.daemon.clone(), request.into_inner());
        let identity = to_the_end(async move {
            joining::join(&daemon, &asked.token, &asked.to).await.map_err(Status::from)
        })
        .await?;
        Ok(Response::new(JoinReply {
            cluster_id: identity.cluster_id.to_vec().into(),
            node_id: identity.node_id.0,
        }))
    }

    async fn create_token(
        &self,
        request: Request<CreateTokenRequest>,
    ) -> Result<Response<CreateTokenReply>, Status> {
        let member = self.member()?;
        let actor = actor(request.extensions(), &member);
        let asked = request.into_inner();
        let mut roles = roles_of(&asked.roles)?;
        if roles.is_empty() {
            roles = Role::ALL.to_vec();
        }
        let authority =
            member.authority().map_err(|error| Status::unavailable(format!("{error:#}")))?;
        let token = JoinToken {
            cluster_id: member.identity().cluster_id,
            authority: fingerprint(authority.certificate()),
            id: random(),
            secret: random(),
        };
        let now_ms = member.consensus().now_ms();
        let expires_ms = now_ms.saturating_add(asked.life_ms);
        let action = Action::MintToken {
            token: TokenId(token.id),
            secret_hash: SecretHash::of(&token.secret),
            roles,
            expires_ms,
            uses: asked.uses,
            actor,
        };
        propose(&member, action).await?;
        Ok(Response::new(CreateTokenReply {
            token: token.to_string(),
            token_id: token.id.to_vec().into(),
            expires_ms,
        }))
    }

    async fn list_tokens(
        &self,
        _: Request<ListTokensRequest>,
    ) -> Result<Response<ListTokensReply>, Status> {
        let member = self.member()?;
        let rows = catalog::tokens(member.consensus().catalog().as_ref())
            .map_err(|error| Status::unavailable(error.to_string()))?;
        let now_ms = member.consensus().now_ms();
        let tokens = rows.into_iter().map(|(id, row)| Token {
            token_id: id.0.to_vec().into(),
            roles: row.roles.iter().map(|role| role.name().to_owned()).collect(),
            expires_ms: row.expires_ms,
            uses_left: row.uses_left,
            nodes: row.uses.iter().map(|(_, node)| node.0).collect(),
            created_by: row.created_by,
            expired: row.expires_ms <= now_ms,
        });
        Ok(Response::new(ListTokensReply { tokens: tokens.collect() }))
    }

    async fn revoke_token(
        &self,
        request: Request<RevokeTokenRequest>,
    ) -> Result<Response<RevokeTokenReply>, Status> {
        let member = self.member()?;
        let actor = actor(request.extensions(), &member);
        let named = request.into_inner().token_id;
        let rows = catalog::tokens(member.consensus().catalog().as_ref())
            .map_err(|error| Status::unavailable(error.to_string()))?;
        let ids: Vec<_> = rows.into_iter().map(|(id, _)| id).collect();
        let token = find(&ids, &named)?;
        propose(&member, Action::RevokeToken { token, actor }).await?;
        Ok(Response::new(RevokeTokenReply { token_id: token.0.to_vec().into() }))
    }
}

/// The token whose id begins like this.
fn find(ids: &[TokenId], named: &str) -> Result<TokenId, Status> {
    let mut found = ids.iter().filter(|id| hex::encode(id.0).starts_with(named));
    match (found.next(), found.next()) {
        (Some(id), None) if !named.is_empty() => Ok(*id),
        (Some(_), _) => Err(Status::invalid_argument(format!(
            "several tokens begin with {named:?}: write more of it"
        ))),
        (None, _) => Err(Status::not_found(format!(
            "there is no token that begins with {named:?}; `reelraft token list` shows them"
        ))),
    }
}

/// The operator's side: speaks to the node that runs on a directory.
#[derive(Clone, Debug)]
pub struct AdminApi {
    client: AdminClient<Channel>,
}

impl AdminApi {
    /// # Errors
    /// When no node runs on `data_dir`, or this user may not speak to it.
    pub async fn connect(data_dir: &Path) -> anyhow::Result<Self> {
        Ok(Self { client: AdminClient::new(super::local::connect(data_dir).await?) })
    }

    /// # Errors
    /// When the node does not answer.
    pub async fn identify(&self) -> anyhow::Result<IdentifyReply> {
        ask(self.client.clone().identify(IdentifyRequest {})).await
    }

    /// Founds a cluster.
    ///
    /// # Errors
    /// In the words of the node.
    pub async fn init(&self) -> anyhow::Result<InitReply> {
        ask(self.client.clone().init(InitRequest {})).await
    }

    /// Joins a cluster through the member at `to`.
    ///
    /// # Errors
    /// In the words of the node.
    pub async fn join(&self, token: &str, to: &str) -> anyhow::Result<JoinReply> {
        let request = JoinRequest { token: token.to_owned(), to: to.to_owned() };
        ask(self.client.clone().join(request)).await
    }

    /// Makes a token for `uses` nodes with these roles, or with any when none are named.
    ///
    /// # Errors
    /// In the words of the node.
    pub async fn create_token(
        &self,
        roles: &[Role],
        life: Duration,
        uses: u32,
    ) -> anyhow::Result<CreateTokenReply> {
        let request = CreateTokenRequest {
            roles: roles.iter().map(|role| role.name().to_owned()).collect(),
            life_ms: u64::try_from(life.as_millis()).unwrap_or(u64::MAX),
            uses,
        };
        ask(self.client.clone().create_token(request)).await
    }

    /// # Errors
    /// In the words of the node.
    pub async fn list_tokens(&self) -> anyhow::Result<Vec<Token>> {
        Ok(ask(self.client.clone().list_tokens(ListTokensRequest {})).await?.tokens)
    }

    /// Revokes the token whose id begins with `token_id`, and returns its id.
    ///
    /// # Errors
    /// In the words of the node.
    pub async fn revoke_token(&self, token_id: &str) -> anyhow::Result<RevokeTokenReply> {
        let request = RevokeTokenRequest { token_id: token_id.to_owned() };
        ask(self.client.clone().revoke_token(request)).await
    }
}

pub(super) async fn ask<T>(
    question: impl Future<Output = Result<Response<T>, Status>>,
) -> anyhow::Result<T> {
    match tokio::time::timeout(ANSWER_MAX, question).await {
        Ok(Ok(answer)) => Ok(answer.into_inner()),
        Ok(Err(status)) => Err(words(&status)),
        Err(_) => Err(anyhow!("the node has not answered within {ANSWER_MAX:?}")),
    }
}

/// What a status says to a person.
pub(crate) fn words(status: &Status) -> anyhow::Error {
    if status.code() == Code::Unimplemented {
        anyhow!("the node runs another version of reelraft, which does not know this request")
    } else if status.code() == Code::Unavailable && std::error::Error::source(status).is_some() {
        anyhow!("the node has ended before it answered")
    } else {
        anyhow!("{}", status.message())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_found_by_the_beginning_of_their_id() {
        let ids = [TokenId([0xab; 16]), TokenId([0xac; 16])];
        assert_eq!(find(&ids, "ab").unwrap(), ids[0]);
        assert_eq!(find(&ids, &"ac".repeat(16)).unwrap(), ids[1]);
        assert_eq!(find(&ids, "a").unwrap_err().code(), Code::InvalidArgument);
        assert_eq!(find(&ids[..1], "").unwrap_err().code(), Code::InvalidArgument);
        assert_eq!(find(&ids, "ad").unwrap_err().code(), Code::NotFound);
        assert_eq!(find(&[], "").unwrap_err().code(), Code::NotFound);
    }
}
