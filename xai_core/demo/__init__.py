"""The main job: real photographs, one pretrained network in every framework, one report."""
