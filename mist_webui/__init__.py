"""The face of Mist in AUTOMATIC1111's web UI and Forge: a tab, an Extras entry, an always-on script, an HTTP API.

`scripts/mist.py` is what the web UI executes, anew at each "Reload UI"; it calls `registration.register`. Our packages
are importable only while the web UI loads its scripts, so these modules import all they need at their top.
"""
