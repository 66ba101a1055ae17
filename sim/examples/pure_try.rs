use sim::pure::{self, Plan};
use sim::scenario::Scenario;
use std::time::Instant;
fn main() {
    let args: Vec<String> = std::env::args().collect();
    if args.get(1).map(String::as_str) == Some("trace") {
        let seed: u64 = args[2].parse().unwrap();
        let sc = Scenario::draw(seed);
        println!("{}", sc.to_toml());
        for v in sc.violations() {
            println!("violation: {v}");
        }
        let (o, lines) = pure::trace(&Plan::of(&sc).unwrap(), seed);
        for l in lines {
            println!("{l}");
        }
        println!("{o:?}");
        return;
    }
    let plan = Plan::default();
    let (o, _) = pure::trace(&plan, 1);
    println!("{o:?}");
    let t = Instant::now();
    let n = 20000;
    let mut req = 0u64;
    let mut dropped = 0u64;
    let mut ev = 0;
    for s in 0..n {
        let o = pure::run(&plan, s);
        req += o.requests as u64;
        ev += o.events;
        dropped += o.dropped() as u64;
        if !o.broken.is_empty() {
            println!("{s} {:?}", o.broken);
            break;
        }
    }
    let el = t.elapsed().as_secs_f64();
    println!(
        "default: {:.0}/s requests {} dropped {} events {}",
        n as f64 / el,
        req as f64 / n as f64,
        dropped,
        ev / n
    );
    let t = Instant::now();
    let mut differ = 0;
    let n: u64 = args.get(1).map_or(20000, |a| a.parse().unwrap());
    let mut bad = 0;
    let mut right = 0;
    let mut wrong = 0;
    let mut failing = 0;
    let mut wrongclean = 0;
    let mut reqs = 0u64;
    let mut causes = pure::Causes::default();
    let mut shown = 0;
    for s in 0..n {
        let sc = Scenario::draw(s);
        let plan = Plan::of(&sc).unwrap();
        let ok = pure::rules::is_safe(&plan);
        if ok != sc.violations().is_empty() {
            differ += 1;
            if differ < 4 {
                println!(
                    "seed {s}: mine {ok}, {:?} {:?}",
                    sc.violations(),
                    pure::rules::rules(&plan).into_iter().filter(|r| !r.holds).collect::<Vec<_>>()
                );
            }
        }
        let o = pure::run(&plan, s);
        reqs += o.requests as u64;
        let failed: u32 = o.causes.iter().map(|c| c.1).sum();
        let leavers = o.causes.get(pure::Cause::PeerFault);
        causes.merge(&o.causes);
        let is_bad = !o.broken.is_empty() || (ok && failed > leavers);
        if ok {
            right += 1
        } else {
            wrong += 1;
            if failed > 0 { failing += 1 } else { wrongclean += 1 }
        }
        if is_bad {
            bad += 1;
            if shown < 12 {
                shown += 1;
                println!(
                    "seed {s} {:?} ok={ok} failed={failed} {:?} {:?}",
                    sc.profile,
                    o.broken,
                    o.causes.iter().collect::<Vec<_>>()
                );
            }
        }
    }
    println!(
        "scenarios: {:.0}/s bad {bad} right {right} wrong {wrong} (failing {failing}, clean {wrongclean}) reqs {reqs}",
        n as f64 / t.elapsed().as_secs_f64()
    );
    for (c, k) in causes.iter() {
        println!("  {c} {k}");
    }
}
