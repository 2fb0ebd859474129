"""`python -m scaleup.web`"""

from scaleup.processes import run
from scaleup.web.serve import serve
from scaleup.web.settings import WebSettings

if __name__ == "__main__":
    run(WebSettings, serve)
