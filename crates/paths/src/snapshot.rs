//! A table in as few records as make it again, without what nobody will ask for: built paths that nobody has, and to
//! which nothing leads that somebody has.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use fleet_nix::StorePath;

use crate::record::{Described, Record};
use crate::table::{Execution, Id, Known, Origin, Table};

impl Table {
    /// Records that make a table of what is still needed.
    pub fn snapshot(&self) -> Vec<Record> {
        let needed = self.needed();
        let mut records = Vec::new();
        let mut held: BTreeMap<&Arc<str>, Vec<StorePath>> = BTreeMap::new();
        let mut written: BTreeSet<Id> = BTreeSet::new();
        for (id, known) in self.each_known().filter(|(id, _)| needed.contains(id)) {
            if written.insert(id) {
                match &known.execution {
                    Some(execution) => {
                        let together = self.of_one_execution(execution, &needed);
                        written.extend(together.iter().copied());
                        records.push(self.built_record(execution, &together));
                    }
                    None => records.push(Record::Vouched {
                        worker: String::new(),
                        path: Described::from(&*known.info),
                        origin: known.origin,
                    }),
                }
            }
            let counted = known.origin != Origin::Upstream;
            for holder in known.holders.iter().filter(|_| counted) {
                held.entry(self.holder_name(*holder)).or_default().push(self.path(id).clone());
            }
            if known.kept {
                records.push(Record::Kept(self.path(id).clone()));
            }
            // An output may have turned out to be upstream's, too.
            if known.execution.is_some() && known.origin == Origin::Upstream {
                let path = Described::from(&*known.info);
                records.push(Record::Vouched { worker: String::new(), path, origin: known.origin });
            }
        }
        let held = held.into_iter().map(|(worker, paths)| Record::Held { worker: worker.to_string(), paths });
        records.extend(held);
        records
    }

    /// What somebody has, what everybody can make or fetch, and all that these were made of and refer to.
    fn needed(&self) -> BTreeSet<Id> {
        let has_use =
            |known: &Known| known.kept || !known.holders.is_empty() || known.origin != Origin::Built;
        let mut ahead: Vec<Id> =
            self.each_known().filter(|(_, known)| has_use(known)).map(|(id, _)| id).collect();
        let mut needed = BTreeSet::new();
        while let Some(id) = ahead.pop() {
            if needed.insert(id)
                && let Some(known) = self.known(id)
            {
                ahead.extend(&known.references);
                ahead.extend(known.execution.iter().flat_map(|execution| &execution.inputs));
            }
        }
        needed
    }

    fn of_one_execution(&self, execution: &Arc<Execution>, needed: &BTreeSet<Id>) -> Vec<Id> {
        let same = |id: &&Id| {
            let own = self.known(**id).and_then(|known| known.execution.as_ref());
            needed.contains(id) && own.is_some_and(|own| Arc::ptr_eq(own, execution))
        };
        execution.outputs.iter().filter(same).copied().collect()
    }

    fn built_record(&self, execution: &Execution, outputs: &[Id]) -> Record {
        let names = |ids: &[Id]| ids.iter().map(|id| self.path(*id).clone()).collect();
        let infos = outputs.iter().filter_map(|id| Some(Described::from(&*self.known(*id)?.info)));
        Record::Built {
            worker: String::new(),
            outputs: infos.collect(),
            inputs: names(&execution.inputs),
            beside: names(&execution.outputs),
        }
    }

    fn each_known(&self) -> impl Iterator<Item = (Id, &Known)> {
        let ids = self.entries.iter().enumerate();
        ids.filter_map(|(number, entry)| Some((Id::from_number(number), entry.known.as_ref()?)))
    }
}
