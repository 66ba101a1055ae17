//! Scenarios as TOML files, and the check that every one passes before it runs.

use super::{PlatformKind, Scenario, VERSION};

impl Scenario {
    /// Reads a file.
    ///
    /// # Errors
    /// What is wrong, with line and column, or a value out of range.
    pub fn from_toml(text: &str) -> Result<Scenario, String> {
        let scenario: Scenario = toml::from_str(text).map_err(|error| error.to_string())?;
        scenario.check()?;
        Ok(scenario)
    }

    /// Writes a file.
    pub fn to_toml(&self) -> String {
        toml::to_string(self).unwrap_or_else(|error| format!("# the scenario cannot be written: {error}\n"))
    }

    /// # Errors
    /// The first value that makes no sense, by name.
    pub fn check(&self) -> Result<(), String> {
        if self.version != VERSION {
            return Err(format!("version is {}: this simulator reads version {VERSION}", self.version));
        }
        self.server.policy()?;
        if self.server.workers == 0 || self.server.workers > 64 {
            return Err(format!("server.workers is {}: it must be from 1 to 64", self.server.workers));
        }
        if self.platform.pods == 0 || self.platform.pods > 64 {
            return Err(format!("platform.pods is {}: it must be from 1 to 64", self.platform.pods));
        }
        if self.platform.readiness_period_ms == 0 {
            return Err("platform.readiness_period_ms is 0: it must be positive".to_owned());
        }
        for (index, client) in self.clients.iter().enumerate() {
            if client.balancer >= self.balancers.len() {
                return Err(format!(
                    "clients[{index}].balancer is {}: there are {} balancers, counted from 0",
                    client.balancer,
                    self.balancers.len()
                ));
            }
        }
        let rolling = matches!(self.platform.kind, PlatformKind::Kubernetes | PlatformKind::Ecs);
        if rolling && self.platform.max_surge == 0 && self.platform.max_unavailable == 0 {
            return Err(
                "platform.max_surge and max_unavailable are both 0: a rollout could not move".to_owned()
            );
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_drawn_scenario_survives_its_file() {
        for seed in 0..500 {
            let scenario = Scenario::draw(seed);
            assert_eq!(Scenario::from_toml(&scenario.to_toml()).as_ref(), Ok(&scenario), "seed {seed}");
        }
    }

    #[test]
    fn a_file_with_a_mistake_is_refused_with_its_line() {
        let text = Scenario::draw(1).to_toml().replace("workers", "wrokers");
        let error = Scenario::from_toml(&text).expect_err("there is no such field");
        assert!(error.contains("wrokers") && error.contains("line"), "{error}");
    }
}
