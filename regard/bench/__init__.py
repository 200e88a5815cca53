"""The main job: attention methods compared on a real model, quality against cost."""
