"""From a bundle to a Greengrass component: compile with TVM through our own schedules, prove parity, zip, write the recipe."""
