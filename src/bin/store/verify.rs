//! `store verify`: every checksum of servers' files and backups.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::json;
use server::verify::{self, Finding, Health};

use crate::args::VerifyArgs;
use crate::failure::{Failure, Outcome, say};
use crate::home::{Home, Settings};
use crate::lookup::Files;
use crate::table;

/// What to do about what is not well.
const WAY_OUT: &str = "\
A server repairs itself from the others when it starts, or says why it cannot; docs/files.md tells
what each finding means. Of a backup, use another copy, or take a new one with `store backup`.";

/// What was found out about one server or backup.
struct Report {
    path: String,
    running: Option<u32>,
    findings: Vec<Finding>,
}

/// The command.
pub(crate) fn run(args: &VerifyArgs) -> Outcome {
    let mut reports = Vec::new();
    for path in &args.paths {
        look(path, &mut reports)?;
    }
    let findings = reports.iter().flat_map(|report| &report.findings);
    let bad = findings.filter(|finding| finding.health != Health::Well);
    let bad = bad.map(|finding| &finding.file).collect::<BTreeSet<_>>().len();
    if args.json {
        let reports: Vec<_> = reports.iter().map(Report::to_json).collect();
        say!("{}", json!({ "well": bad == 0, "reports": reports }));
    } else {
        for report in &reports {
            say!("{}", report.to_text());
        }
        if bad > 0 {
            say!("{WAY_OUT}");
        }
    }
    match bad {
        0 if args.json => Ok(()),
        0 => {
            say!("Everything is well.");
            Ok(())
        }
        1 => Err(Failure::refused("1 file is not well")),
        _ => Err(Failure::refused(format!("{bad} files are not well"))),
    }
}

fn look(path: &Path, reports: &mut Vec<Report>) -> Outcome {
    let shown = path.display().to_string();
    if path.is_file() {
        let findings = verify::backup_file(path);
        reports.push(Report { path: shown, running: None, findings });
        return Ok(());
    }
    if !path.is_dir() {
        return Err(Failure::usage(format!(
            "{shown} is not there: give a server's folder, a data folder or a backup"
        )));
    }
    if let Some(files) = Files::of(path)? {
        reports.push(of_server(&files));
        return Ok(());
    }
    let before = reports.len();
    for node in Home::at(path)?.nodes()? {
        if let Some(files) = Files::of(&path.join(&node.name))? {
            reports.push(of_server(&files));
        }
    }
    if reports.len() == before {
        return Err(Failure::usage(format!(
            "{shown} holds no server: give a server's folder, a data folder or a backup"
        )));
    }
    Ok(())
}

fn of_server(files: &Files) -> Report {
    let node = &files.node;
    let running = node.running();
    let mut findings = verify::server(&node.dir, &files.log, &files.keystore, running.is_some());
    let path = node.dir.join("settings.json");
    let settings = match node.settings() {
        Ok(None) => None,
        Ok(Some(Settings::Fixed(_) | Settings::Server(_))) => {
            Some((Health::Well, "readable".into()))
        }
        Ok(Some(Settings::LoadBalancer(_))) => {
            Some((Health::Foreign, "it is that of a load balancer".into()))
        }
        Err(failure) => Some((Health::Damaged, failure.message)),
    };
    if let Some((health, what)) = settings {
        findings.push(Finding { file: path, health, offset: None, entries: None, what });
    }
    Report { path: node.dir.display().to_string(), running, findings }
}

impl Report {
    fn to_json(&self) -> serde_json::Value {
        json!({ "path": self.path, "running_pid": self.running, "files": self.findings })
    }

    fn to_text(&self) -> String {
        let mut text = match self.running {
            None => format!("{}\n", self.path),
            Some(pid) => format!(
                "{} is in use by process {pid}: what it writes at this moment is left out.\n",
                self.path
            ),
        };
        let rows: Vec<_> = self.findings.iter().map(|finding| self.row(finding)).collect();
        text.push_str(&table::render(&["  FILE", "STATE", ""], &[false; 3], &rows));
        text
    }

    fn row(&self, finding: &Finding) -> Vec<String> {
        let short = finding.file.strip_prefix(&self.path).unwrap_or(&finding.file);
        let name = if short.as_os_str().is_empty() { &finding.file } else { short };
        let state = match finding.health {
            Health::Well => "well",
            Health::Damaged => "DAMAGED",
            Health::Missing => "MISSING",
            Health::Foreign => "FOREIGN",
            Health::Newer => "NEWER",
            Health::Unreadable => "UNREADABLE",
        };
        let mut what = finding.what.clone();
        if let Some(offset) = finding.offset {
            what = format!("at byte {offset}: {what}");
        }
        if let Some((from, to)) = finding.entries.filter(|_| !what.contains("entries")) {
            what.push_str(&format!(", entries {from} to {to}"));
        }
        vec![format!("  {}", name.display()), state.to_owned(), what]
    }
}
