"""The commands of `onceforall`, one a module; heavy imports happen inside of them."""
