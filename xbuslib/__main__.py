from xbuslib.cli import main
from xbuslib.workflow import leash

leash.follow()
main()
