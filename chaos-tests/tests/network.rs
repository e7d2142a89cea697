//! What the other tests rely on when they cut a network: with plain connections, without any node.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use chaos_tests::network::{Host, Network};

/// An answer within a machine takes far less; a packet that is lost makes TCP wait as long at least.
const ANSWER_WITHIN: Duration = Duration::from_millis(150);

/// After a cut TCP sends again after ever longer times.
const HEALED_WITHIN: Duration = Duration::from_secs(5);

const PORT: u16 = 7000;

/// A host that sends back what it is sent.
fn echo(network: &Network, host: Host) -> Result<SocketAddr> {
    let address = SocketAddr::from((network.address(host), PORT));
    let listener = network.inside(host, || TcpListener::bind(address))??;
    // Ends with the test's process.
    std::thread::spawn(move || {
        for connection in listener.incoming() {
            let mut connection = connection?;
            std::thread::spawn(move || {
                let mut from = connection.try_clone()?;
                io::copy(&mut from, &mut connection)
            });
        }
        Ok::<_, io::Error>(())
    });
    Ok(address)
}

fn connect(network: &Network, from: Host, to: SocketAddr) -> Result<TcpStream> {
    Ok(network.inside(from, || TcpStream::connect_timeout(&to, ANSWER_WITHIN))??)
}

fn answers(connection: &mut TcpStream, within: Duration) -> Result<()> {
    connection.set_read_timeout(Some(within))?;
    connection.write_all(b"x")?;
    let mut answer = [0; 1];
    connection.read_exact(&mut answer).context("no answer")
}

#[test]
fn hosts_reach_each_other_until_a_cut() -> Result<()> {
    let mut network = Network::new(3)?;
    let at: Vec<_> = (0..3).map(|host| echo(&network, host)).collect::<Result<_>>()?;
    for from in 0..3 {
        // Loopback, too: a host reaches itself at its own address.
        for to in &at {
            answers(&mut connect(&network, from, *to)?, ANSWER_WITHIN)?;
        }
    }
    let mut before = connect(&network, 0, at[1])?;
    answers(&mut before, ANSWER_WITHIN)?;

    // Partial: the third reaches both, and so do the tests.
    network.part(0, 1)?;
    ensure!(answers(&mut before, ANSWER_WITHIN).is_err(), "an open connection goes on");
    ensure!(connect(&network, 0, at[1]).is_err(), "0 reaches 1");
    ensure!(connect(&network, 1, at[0]).is_err(), "1 reaches 0");
    for to in &at {
        answers(&mut connect(&network, 2, *to)?, ANSWER_WITHIN)?;
        answers(&mut TcpStream::connect_timeout(to, ANSWER_WITHIN)?, ANSWER_WITHIN)?;
    }
    answers(&mut connect(&network, 0, at[2])?, ANSWER_WITHIN)?;
    ensure!(network.cut(0, 1).is_err(), "cut twice");
    network.heal()?;
    // What was lost is sent again, and the answers of both come.
    answers(&mut before, HEALED_WITHIN)?;
    answers(&mut connect(&network, 1, at[0])?, ANSWER_WITHIN)?;

    // One of three alone.
    network.isolate(2)?;
    for other in [0, 1] {
        ensure!(connect(&network, other, at[2]).is_err(), "{other} reaches 2");
        ensure!(connect(&network, 2, at[other]).is_err(), "2 reaches {other}");
    }
    answers(&mut connect(&network, 0, at[1])?, ANSWER_WITHIN)?;
    network.heal()?;
    answers(&mut connect(&network, 2, at[0])?, ANSWER_WITHIN)
}

#[test]
fn a_cut_has_a_direction() -> Result<()> {
    let mut network = Network::new(2)?;
    let sockets: Vec<_> = (0..2)
        .map(|host| {
            let address = SocketAddr::from((network.address(host), PORT));
            let socket = network.inside(host, || std::net::UdpSocket::bind(address))??;
            socket.set_read_timeout(Some(ANSWER_WITHIN))?;
            Ok((address, socket))
        })
        .collect::<Result<_>>()?;
    let arrives = |from: Host, to: Host| -> Result<bool> {
        // Without an error for the sender: the packet is lost on the way.
        sockets[from].1.send_to(b"x", sockets[to].0)?;
        Ok(sockets[to].1.recv(&mut [0; 1]).is_ok())
    };
    ensure!(arrives(0, 1)? && arrives(1, 0)?, "before");
    network.cut(0, 1)?;
    ensure!(!arrives(0, 1)?, "a packet passes the cut");
    ensure!(arrives(1, 0)?, "the other direction is cut");
    network.heal()?;
    ensure!(arrives(0, 1)? && arrives(1, 0)?, "after");
    Ok(())
}

#[test]
fn programs_run_in_a_host_and_nothing_is_left_behind() -> Result<()> {
    let network = Network::new(1)?;
    let other = Network::new(1)?;
    ensure!(network.address(0) != other.address(0), "two networks have the same addresses");
    let output = network.command(0, Path::new("ip")).args(["-4", "-o", "addr"]).output()?;
    let seen = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(seen.contains(&network.address(0).to_string()), "{seen}");
    ensure!(seen.lines().count() == 2, "more than loopback and one cable: {seen}");
    // A dot at the end, so that 198.18.1 is not found in 198.18.12.
    let [.., third, _] = network.address(0).octets();
    let subnet = format!(" 198.18.{third}.");
    let list = |arguments: &[&str]| -> Result<String> {
        let output = std::process::Command::new("ip").args(arguments).output()?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let own = format!("rr{}n", std::process::id());
    ensure!(list(&["-4", "-o", "addr"])?.contains(&subnet) && list(&["netns"])?.contains(&own));
    drop((network, other));
    let (addresses, namespaces) = (list(&["-4", "-o", "addr"])?, list(&["netns"])?);
    ensure!(!addresses.contains(&subnet) && !namespaces.contains(&own), "{addresses}{namespaces}");
    Ok(())
}
