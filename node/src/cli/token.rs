//! `reelraft token …`: the right to join the cluster, handed out and taken back.

use std::time::{Duration, SystemTime};

use clap::Subcommand;
use cluster::tables::nodes::Role;
use proto::admin::Token;

use super::local::Local;
use super::output;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Make a token that lets a node join this node's cluster
    ///
    /// Prints the token and nothing else. Whoever has it can join with it, and the cluster does not show it again.
    Create {
        /// What the node may do: store,gateway,transcoder; all of it unless said
        #[arg(long, value_name = "ROLES", value_delimiter = ',', value_parser = role)]
        roles: Vec<Role>,
        /// How long it is good for, such as 30m or 2h
        #[arg(long, value_name = "TIME", default_value = "1h", value_parser = humantime::parse_duration)]
        expires: Duration,
        /// How many nodes may join with it
        #[arg(long, value_name = "N", default_value_t = 1)]
        uses: u32,
        #[command(flatten)]
        local: Local,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// List the tokens, without their secrets
    List {
        #[command(flatten)]
        local: Local,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Take a token back; nodes that have joined with it stay
    Revoke {
        /// Its id as `token list` shows it, or the beginning of it
        id: String,
        #[command(flatten)]
        local: Local,
    },
}

fn role(text: &str) -> Result<Role, String> {
    Role::ALL
        .into_iter()
        .find(|role| role.name() == text)
        .ok_or_else(|| "there are store, gateway and transcoder".to_owned())
}

pub(super) async fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Create { roles, expires, uses, local, json } => {
            let node = local.node().await?;
            let made = node.create_token(&roles, expires, uses).await?;
            if json {
                return output::json(&serde_json::json!({
                    "token": made.token,
                    "id": hex::encode(&made.token_id),
                    "expires": time_of(made.expires_ms),
                }));
            }
            output::line(&made.token);
            let about = node.identify().await?;
            output::note(&format!(
                "good until {} for {}; on the machine of the new node: reelraft node join TOKEN --to {}",
                time_of(made.expires_ms),
                if uses == 1 { "one node".to_owned() } else { format!("{uses} nodes") },
                about.rpc_addr
            ));
            Ok(())
        }
        Command::List { local, json } => {
            let tokens = local.node().await?.list_tokens().await?;
            if json {
                return output::json(&tokens.iter().map(as_json).collect::<Vec<_>>());
            }
            output::line(&table(&tokens));
            Ok(())
        }
        Command::Revoke { id, local } => {
            let revoked = local.node().await?.revoke_token(&id).await?;
            output::line(&format!("revoked {}", hex::encode(&revoked.token_id)));
            Ok(())
        }
    }
}

/// RFC 3339.
fn time_of(milliseconds: u64) -> String {
    let time = SystemTime::UNIX_EPOCH + Duration::from_millis(milliseconds);
    humantime::format_rfc3339_seconds(time).to_string()
}

fn state(token: &Token) -> &'static str {
    match (token.expired, token.uses_left) {
        (true, _) => "expired",
        (false, 0) => "used",
        (false, _) => "good",
    }
}

fn as_json(token: &Token) -> serde_json::Value {
    serde_json::json!({
        "id": hex::encode(&token.token_id),
        "state": state(token),
        "roles": token.roles,
        "expires": time_of(token.expires_ms),
        "uses_left": token.uses_left,
        "nodes": token.nodes,
        "created_by": token.created_by,
    })
}

fn table(tokens: &[Token]) -> String {
    let rows = tokens
        .iter()
        .map(|token| {
            [
                // Enough to name it by.
                hex::encode(token.token_id.get(..6).unwrap_or(&token.token_id)),
                state(token).to_owned(),
                token.uses_left.to_string(),
                time_of(token.expires_ms),
                if token.roles.len() == Role::ALL.len() {
                    "all".to_owned()
                } else {
                    token.roles.join(",")
                },
                token.nodes.iter().map(ToString::to_string).collect::<Vec<_>>().join(","),
                token.created_by.clone(),
            ]
        })
        .collect();
    output::table(["ID", "STATE", "LEFT", "EXPIRES", "ROLES", "JOINED", "BY"], rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_good_until_it_has_expired_or_is_used_up() {
        let token = Token { uses_left: 1, token_id: vec![0xab; 16].into(), ..Token::default() };
        assert_eq!(state(&token), "good");
        assert_eq!(state(&Token { uses_left: 0, ..token.clone() }), "used");
        assert_eq!(state(&Token { expired: true, ..token.clone() }), "expired");
        assert!(table(&[token]).contains("abababababab"));
    }
}
