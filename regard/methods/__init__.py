"""Methods for pretrained models: interventions that a person chooses by name, each with a spec and an identity."""
