# AUTOMATIC1111 and Forge execute every file in scripts/ and register the script classes they find in it.
from mist_webui.always_on import MistScript  # noqa: F401
from mist_webui.extras import MistPostprocessing  # noqa: F401
from mist_webui.registration import register

register()
