//! The table: who may call which procedure. What is not in it does not exist.

use fleet_identity::Role;

use super::Caller;

/// Health, as load balancers and service managers ask for it.
pub(crate) const HEALTH_CHECK: &str = "/grpc.health.v1.Health/Check";

/// Who may call a procedure, besides this machine's user, who may call all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Who {
    /// Also callers who have shown nothing.
    Anyone,
    /// Whoever has shown who it is.
    Known,
    /// Workers.
    Worker,
    /// Clients with this role, or one that includes it.
    Client(Role),
    /// Workers, and clients with this role or one that includes it.
    WorkerOr(Role),
}

/// Why a caller may not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Denied {
    /// It has shown nothing, and must.
    Unknown,
    /// It is known, and may not.
    Forbidden(Who),
}

/// Every procedure that is served.
pub(super) const TABLE: &[(&str, Who)] = &[
    (HEALTH_CHECK, Who::Anyone),
    ("/grpc.health.v1.Health/Watch", Who::Known),
    ("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", Who::Client(Role::Admin)),
    ("/fleet.v1.Enrolment/Enrol", Who::Anyone),
    ("/fleet.v1.Enrolment/Renew", Who::Worker),
    ("/fleet.v1.Workers/Session", Who::Worker),
    ("/fleet.v1.Paths/Register", Who::Worker),
    ("/fleet.v1.Paths/Look", Who::Worker),
    ("/fleet.v1.Paths/Locate", Who::Worker),
    ("/fleet.v1.Paths/Vouch", Who::Worker),
    // Clients bring their sources; nothing comes back to them.
    ("/fleet.v1.Chunks/FindMissing", Who::WorkerOr(Role::Submit)),
    ("/fleet.v1.Chunks/Put", Who::WorkerOr(Role::Submit)),
    ("/fleet.v1.Chunks/Get", Who::Worker),
    ("/fleet.v1.Cache/Info", Who::Client(Role::Read)),
    ("/fleet.v1.Cache/ListRoots", Who::Client(Role::Read)),
    ("/fleet.v1.Cache/Collect", Who::Client(Role::Admin)),
    ("/fleet.v1.Cache/Verify", Who::Client(Role::Admin)),
    ("/fleet.v1.Cache/Pin", Who::Client(Role::Admin)),
    ("/fleet.v1.Cache/Unpin", Who::Client(Role::Admin)),
    ("/fleet.v1.Runs/Submit", Who::Client(Role::Submit)),
    // Of its own runs only: the service looks at whose a run is.
    ("/fleet.v1.Runs/Cancel", Who::Client(Role::Submit)),
    ("/fleet.v1.Runs/Events", Who::Client(Role::Read)),
    ("/fleet.v1.Runs/Logs", Who::Client(Role::Read)),
    ("/fleet.v1.Runs/List", Who::Client(Role::Read)),
    ("/fleet.v1.Runs/Show", Who::Client(Role::Read)),
    ("/fleet.v1.Runs/Status", Who::Client(Role::Read)),
    ("/fleet.v1.Runs/Why", Who::Client(Role::Read)),
    ("/fleet.v1.Admin/CreateJoinToken", Who::Client(Role::Admin)),
    ("/fleet.v1.Admin/CreateClientToken", Who::Client(Role::Admin)),
    ("/fleet.v1.Admin/ListClients", Who::Client(Role::Admin)),
    ("/fleet.v1.Admin/RevokeClient", Who::Client(Role::Admin)),
    ("/fleet.v1.Admin/ListWorkers", Who::Client(Role::Admin)),
    ("/fleet.v1.Admin/OrderWorker", Who::Client(Role::Admin)),
];

/// Who may call this procedure; none for one that is not served.
pub(super) fn find(path: &str) -> Option<Who> {
    TABLE.iter().find(|(served, _)| *served == path).map(|(_, who)| *who)
}

impl Who {
    /// Whether `caller` is among them.
    pub(super) fn check(self, caller: &Caller) -> Result<(), Denied> {
        match (self, caller) {
            (Self::Anyone, _) | (_, Caller::Here) => Ok(()),
            (_, Caller::Nobody) => Err(Denied::Unknown),
            (Self::Known, _) | (Self::Worker | Self::WorkerOr(_), Caller::Worker(_)) => Ok(()),
            (Self::Client(least) | Self::WorkerOr(least), Caller::Client(client)) if client.role >= least => {
                Ok(())
            }
            _ => Err(Denied::Forbidden(self)),
        }
    }

    /// Who it takes, for the refused.
    pub(super) fn describe(self) -> String {
        match self {
            Self::Anyone => "anyone".to_owned(),
            Self::Known => "somebody known".to_owned(),
            Self::Worker => "a worker".to_owned(),
            Self::Client(role) => format!("a client with role {role}"),
            Self::WorkerOr(role) => format!("a worker or a client with role {role}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use prost::Message;

    use super::*;

    #[test]
    fn every_procedure_of_the_protocol_stands_in_the_table() {
        let described = prost_types::FileDescriptorSet::decode(fleet_wire::DESCRIPTORS).expect("our own");
        let mut procedures = BTreeSet::new();
        for file in &described.file {
            // Workers ask each other there, and not the coordinator.
            for service in file.service.iter().filter(|service| service.name() != "Peer") {
                let name = format!("{}.{}", file.package(), service.name());
                procedures.extend(service.method.iter().map(|method| format!("/{name}/{}", method.name())));
            }
        }
        let ours =
            TABLE.iter().map(|(path, _)| (*path).to_owned()).filter(|path| path.starts_with("/fleet."));
        assert_eq!(ours.collect::<BTreeSet<_>>(), procedures);
    }
}
