"""``python -m noise_scheduler_sampling_system``: the command line."""

from .app.command_line import app

if __name__ == "__main__":
    app(prog_name="noise-sampling")
