"""Hosting: StartModel runs an edge agent over the model's bundle, so that the cloud's answer is the device's."""
